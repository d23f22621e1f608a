"""The gate in the task's own units: what a recogniser sees of the exported networks and of the trained ones.

Faces go the whole way, protected and erased again, once through the trained networks in PyTorch and once
through the exported ones in their backend. SFace, the recogniser that the runtime knows, embeds both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.geometry import crop_template
from runtime.recognizers import DEFAULT_FAR, Recognizer

from .errors import ParityError
from .faces import FacesU8
from .parity import ADVICE, BATCHES, Run
from .parity_report import TaskParity
from .precision import Precision


@dataclass(frozen=True, kw_only=True)
class Functions:
    """The three networks as functions of named arrays, from PyTorch or from a backend."""

    protect: Run
    attributes: Run
    restore: Run


@dataclass(frozen=True, kw_only=True)
class TaskBounds:
    """What a precision may cost.

    Attributes:
        cosine: largest drift.
        flips: protected faces, and likewise restored ones, whose verdict may change.
        attributes: least share that agrees.
        ssim: least similarity, where the attributes agree.
    """

    cosine: float
    flips: int
    attributes: float
    ssim: float


# docs/export.md says what was measured and so why these.
TASK_BOUNDS: dict[Precision, TaskBounds] = {
    "fp32": TaskBounds(cosine=0.01, flips=1, attributes=0.999, ssim=0.999),
    "fp16": TaskBounds(cosine=0.02, flips=1, attributes=0.995, ssim=0.998),
    "fp16-mixed": TaskBounds(cosine=0.02, flips=1, attributes=0.995, ssim=0.998),
    "bf16-mixed": TaskBounds(cosine=0.05, flips=2, attributes=0.98, ssim=0.99),
    "int8": TaskBounds(cosine=0.08, flips=2, attributes=0.97, ssim=0.97),
    "int8-gpu": TaskBounds(cosine=0.08, flips=2, attributes=0.97, ssim=0.97),
}


@dataclass(frozen=True, eq=False)
class Seen:
    """Faces that went the whole way through the three networks, and what a recogniser sees of them.

    Attributes:
        attributes: float32 ``(N, n)``, 0 or 1.
        protected: uint8 ``(N, S, S, 3)``.
        protected_as, restored_as: embeddings ``(N, D)``.
    """

    attributes: NDArray[np.float32]
    protected: FacesU8
    protected_as: NDArray[np.float32]
    restored_as: NDArray[np.float32]


def look_at(
    networks: Functions, faces: FacesU8, recognizer: Recognizer, *, strength: float, injection: float
) -> Seen:
    """Protects and erases faces ``(N, S, S, 3)`` with the bundle's knobs, and embeds both.

    Raises:
        ParityError: a network cannot run.
    """
    probabilities = _batched(networks.attributes, {"faces": faces})
    attributes = (probabilities >= 0.5).astype(np.float32)
    column = np.ones((len(faces), 1), np.float32)
    knobs = {"strength": column * np.float32(strength), "injection": column * np.float32(injection)}
    protected = _batched(networks.protect, {"faces": faces, "attributes": attributes, **knobs})
    restored = _batched(networks.restore, {"faces": protected})
    return Seen(attributes, protected, embed(protected, recognizer), embed(restored, recognizer))


def measure_task(
    trained: Seen,
    exported: Seen,
    clean: NDArray[np.floating],
    recognizer: Recognizer,
    target: NDArray[np.floating] | None,
) -> TaskParity:
    """Compares both ways through the networks.

    Args:
        trained, exported: of the same faces.
        clean: the faces' own embeddings ``(N, 128)``.
        recognizer: what embedded them.
        target: the target's embedding ``(128,)`` in SFace's space.
    """

    def drift(name: str, reference: NDArray) -> float:
        cosines = [(getattr(seen, name) * reference).sum(1) for seen in (trained, exported)]
        return float(np.abs(cosines[0] - cosines[1]).max())

    # A probability beside one half may fall on either side: the two pictures then differ as they should.
    edited = (trained.attributes == exported.attributes).all(1)
    target_drift, asr, esr, flips = None, None, None, None
    if target is not None:
        unit = target / np.linalg.norm(target)
        threshold = recognizer.threshold(DEFAULT_FAR)
        target_drift = drift("protected_as", unit)
        passing = [seen.protected_as @ unit >= threshold for seen in (trained, exported)]
        released = [seen.restored_as @ unit < threshold for seen in (trained, exported)]
        asr = float(passing[0].mean()), float(passing[1].mean())
        esr = float(released[0].mean()), float(released[1].mean())
        flips = int((passing[0] != passing[1]).sum()), int((released[0] != released[1]).sum())
    return TaskParity(
        recognizer=recognizer.card.name,
        faces=len(clean),
        target_drift=target_drift,
        own_drift=drift("protected_as", clean),
        restored_drift=drift("restored_as", clean),
        asr=asr,
        esr=esr,
        flips=flips,
        kept_attributes=float((trained.attributes == exported.attributes).mean()),
        ssim=min(map(_ssim, trained.protected[edited], exported.protected[edited]), default=math.nan),
    )


def gate_task(parity: TaskParity, precision: Precision) -> None:
    """Lets networks pass that keep the bounds of their precision.

    Raises:
        ParityError: they do not.
    """
    bounds = TASK_BOUNDS[precision]
    cosines = {
        "a protected face's cosine to the target": parity.target_drift,
        "a protected face's cosine to itself": parity.own_drift,
        "a restored face's cosine to itself": parity.restored_drift,
    }
    broken = [
        f"{name} moves by {drift:.3f}, allowed {bounds.cosine:g}"
        for name, drift in cosines.items()
        if drift is not None and not drift <= bounds.cosine
    ]
    for faces, changed in zip(("protected", "restored"), parity.flips or (), strict=False):
        if changed > bounds.flips:
            broken.append(
                f"{changed} of {parity.faces} {faces} faces get another verdict, allowed {bounds.flips}"
            )
    if not parity.kept_attributes >= bounds.attributes:
        broken.append(f"{parity.kept_attributes:.4f} of the attributes agree, demanded {bounds.attributes}")
    if not parity.ssim >= bounds.ssim:
        broken.append(f"least SSIM of a protected face {parity.ssim:.4f}, demanded {bounds.ssim}")
    if broken:
        raise ParityError(
            f"the exported networks do not do what the trained ones do, by the bounds of {precision} on "
            f"{parity.faces} faces seen by {parity.recognizer}: {'; '.join(broken)}; {ADVICE}"
        )


def _batched(run: Run, inputs: Mapping[str, NDArray]) -> NDArray:
    step, rows = max(BATCHES), len(next(iter(inputs.values())))
    parts = []
    for start in range(0, rows, step):
        (output,) = run({name: values[start : start + step] for name, values in inputs.items()})
        parts.append(output)
    return np.concatenate(parts)


def embed(faces: FacesU8, recognizer: Recognizer) -> NDArray[np.float32]:
    """Embeddings ``(N, 128)`` of aligned faces ``(N, S, S, 3)``."""
    landmarks = crop_template(faces.shape[1])
    return np.stack([recognizer.embed(face, landmarks) for face in faces])


def _ssim(a: FacesU8, b: FacesU8) -> float:
    from skimage.metrics import structural_similarity

    return float(structural_similarity(a, b, channel_axis=-1, data_range=255))
