"""What ``erasablemask`` does with photos, by the bundle: protect and erase, or anonymise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.faces import anonymise_inputs
from runtime.anonymiser import NETWORK, Anonymiser, noise_shapes
from runtime.face_pipeline import FacePipeline
from runtime.manifest import Bundle, open_bundle
from runtime.pipeline import Eraser, Protector
from runtime.shipped import default_bundle

from ..bundles import Bundles
from ..common import about_bundle
from .programs import Inputs
from .stages import StageClock, Work


@dataclass(frozen=True, kw_only=True)
class Job:
    """A pipeline that is open, and the clock that watches its stages."""

    work: Work
    clock: StageClock


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A command of ``erasablemask`` that works on photos.

    Attributes:
        name: of the command.
        network: the bytes of its network.
        inputs: of the network, for faces ``(N, S, S, 3)`` uint8.
        pipeline: makes what runs it; its method of the verb's name works on a photo.
        options: of the command, beside the files and the backend.
        on_published: it works on what the first verb wrote, not on the photo.
    """

    name: str
    network: bytes
    inputs: Callable[[NDArray[np.uint8]], Inputs]
    pipeline: Callable[..., FacePipeline]
    options: Sequence[str]
    on_published: bool = False

    @contextmanager
    def open(self, backend: str, threads: int) -> Iterator[Job]:
        """The pipeline, until the end.

        Raises:
            BackendError: it does not work with this backend here.
        """
        clock = StageClock()
        with self.pipeline(backend=backend, threads=threads, watch=clock.watch) as pipeline:
            yield Job(work=getattr(pipeline, self.name), clock=clock)


@dataclass(frozen=True, kw_only=True)
class TimedBundle:
    """A bundle whose verbs are timed.

    Attributes:
        public: its public half, whose detector finds the faces.
        about: what a result says of it.
        verbs: in the order in which a photo meets them.
        in_float32: nothing may be computed in less.
    """

    public: Bundle
    about: dict[str, Any]
    verbs: tuple[Verb, ...]
    in_float32: bool = False


def open_timed(folder: Path | None, key: Path | None) -> TimedBundle:
    """Opens a bundle of either system.

    Args:
        folder: with ``public/``, and the mask's with ``authority/``; None for the shipped ones.
        key: the authority's; None for the demo key of the bundle.

    Raises:
        BundleError: a half is missing or was changed.
        SecretError: the authority's key cannot be read, or is not the one.
    """
    public = open_bundle((folder or default_bundle("public").parent) / "public")
    return _anonymiser(public) if public.manifest.system == "anonymiser" else _mask(folder, key)


def _anonymiser(public: Bundle) -> TimedBundle:
    cells = noise_shapes(public.manifest)["shade"][-1]
    anonymise = Verb(
        name="anonymise",
        network=public.read(NETWORK),
        inputs=partial(anonymise_inputs, cells=cells),
        pipeline=partial(Anonymiser, public),
        options=("--bundle", str(public.folder)),
    )
    return TimedBundle(
        public=public, about=about_bundle(public, NETWORK), verbs=(anonymise,), in_float32=True
    )


def _mask(folder: Path | None, key: Path | None) -> TimedBundle:
    both = Bundles.open(folder, key)
    manifest = both.public.manifest

    def protect_inputs(faces: NDArray[np.uint8]) -> Inputs:
        column = np.ones((len(faces), 1), np.float32)
        return {
            "faces": faces,
            "attributes": np.zeros((len(faces), len(manifest.attributes)), np.float32),
            "strength": column * np.float32(manifest.strength),
            "injection": column * np.float32(manifest.injection),
        }

    protect = Verb(
        name="protect",
        network=both.public.read("protect"),
        inputs=protect_inputs,
        pipeline=partial(Protector, both.public),
        options=("--bundle", str(both.public.folder)),
    )
    erase = Verb(
        name="erase",
        network=both.restorer,
        inputs=lambda faces: {"faces": faces},
        pipeline=partial(Eraser, both.authority, both.restorer),
        options=("--bundle", str(both.authority.folder), "--key-file", str(both.key)),
        on_published=True,
    )
    return TimedBundle(public=both.public, about=both.about("protect", "attributes"), verbs=(protect, erase))
