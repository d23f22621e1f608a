"""A picture's life as files: protected, saved, published, restored by the authority, saved again."""

from __future__ import annotations

import io
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.backends import DEFAULT_BACKEND, BackendFactory
from runtime.detection import FaceDetector
from runtime.errors import NoFaceError
from runtime.pipeline import Eraser, Protector
from runtime.shipped import default_bundle

from ..bundles import Bundles

Pixels = NDArray[np.uint8]
# The runtime refuses strength 0, which would publish a picture without a mask; at this one no pixel's
# perturbation reaches half a level.
NO_PERTURBATION = 1e-6


def jpeg(pixels: Pixels, quality: int) -> bytes:
    """The picture as the bytes of a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def decode(data: bytes) -> Pixels:
    """Pixels ``(H, W, 3)`` of a file's bytes."""
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


class Publisher:
    """A bundle's protector and eraser with everything that happens to a file between and after.

    Args:
        bundle: folder with ``public/`` and ``authority/``; None is the shipped one.
        key: the authority's key file; None is the demo key inside the bundle.
        quality: of every saved JPEG file.
        threads: CPU threads of each network.
        backend: of the networks that protect; a function may put something else in their place.
        eraser: what runs the restorer; a function that makes a backend may put another one in its place.
    """

    def __init__(
        self,
        bundle: Path | None,
        key: Path | None,
        *,
        quality: int,
        threads: int | None = None,
        backend: str | BackendFactory = DEFAULT_BACKEND,
        eraser: str | BackendFactory = DEFAULT_BACKEND,
    ) -> None:
        self.bundle = bundle or default_bundle("public").parent
        self.key = key or self.bundle / "authority" / "demo.key"
        self.quality = quality
        self.threads = threads
        self._backends = backend, eraser
        self._stack = ExitStack()

    def __enter__(self) -> Publisher:
        both = Bundles.open(self.bundle, self.key)
        enter = self._stack.enter_context
        self.detector = enter(FaceDetector.from_bundle(both.public, threads=self.threads))
        protecting, erasing = self._backends
        self._protector = enter(Protector(both.public, backend=protecting, threads=self.threads))
        self._eraser = enter(Eraser(both.authority, both.restorer, backend=erasing, threads=self.threads))
        self.manifest = both.public.manifest
        self.about = both.about("protect")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def protect(self, clean: Pixels) -> bytes:
        """The protected picture as a file.

        Raises:
            NoFaceError: no face was found.
        """
        return jpeg(self._protector.protect(clean).pixels, self.quality)

    def edit(self, clean: Pixels) -> Pixels:
        """The attribute-edited picture with no perturbation to speak of, not saved: Table VI's reference."""
        return self._protector.protect(clean, strength=NO_PERTURBATION).pixels

    def erase(self, published: Pixels) -> bytes | None:
        """The restored picture as a file; None where the authority finds no face on the published one."""
        try:
            return jpeg(self._eraser.erase(published).pixels, self.quality)
        except NoFaceError:
            return None
