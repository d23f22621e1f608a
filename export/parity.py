"""The gate of an export: the trained network in PyTorch against its file's bytes in the runtime's backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from runtime.backends import DEFAULT_BACKEND, create_backend
from runtime.errors import BackendError

from .errors import ParityError
from .parity_report import Parity
from .precision import Precision

# Faces per call, in turns: one, some and many must give the same, or the batch is not free.
BATCHES = (1, 3, 8)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a precision may cost.

    Attributes:
        within_one: least share of uint8 values that differ by at most one level.
        max_levels: largest difference of any uint8 value, in levels.
        max_fraction: largest difference of any other output: probabilities, and the detector's places as
            fractions of a box.
    """

    within_one: float
    max_levels: int
    max_fraction: float


ADVICE = "export in a higher precision, or report it if fp32 fails, too"

# docs/export.md says what was measured and so why these.
BOUNDS: dict[Precision, Bounds] = {
    "fp32": Bounds(within_one=0.999, max_levels=2, max_fraction=1e-4),
    "fp16": Bounds(within_one=0.999, max_levels=4, max_fraction=1e-2),
    "fp16-mixed": Bounds(within_one=0.999, max_levels=4, max_fraction=2e-2),
    "bf16-mixed": Bounds(within_one=0.999, max_levels=6, max_fraction=1e-1),
    "int8": Bounds(within_one=0.95, max_levels=16, max_fraction=2e-1),
    "int8-gpu": Bounds(within_one=0.85, max_levels=16, max_fraction=2e-1),
}


Run = Callable[[Mapping[str, NDArray]], list[NDArray]]


def in_torch(module: nn.Module) -> Run:
    """Runs a module, in evaluation mode, on inputs by name in ``forward``'s order."""

    def run(inputs: Mapping[str, NDArray]) -> list[NDArray]:
        with torch.inference_mode():
            outputs = module(*map(torch.from_numpy, inputs.values()))
        return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return run


def in_backend(network: str, model: bytes, backend: str = DEFAULT_BACKEND) -> Run:
    """Runs an ONNX file's bytes as the runtime does.

    Raises:
        ParityError: the backend is not there, cannot load it, or later cannot run it.
    """
    try:
        loaded = create_backend(backend, model)
    except BackendError as error:
        raise ParityError(f"{network} cannot be compared: {error}") from error

    def run(inputs: Mapping[str, NDArray]) -> list[NDArray]:
        try:
            return list(loaded.run(inputs).values())
        except BackendError as error:
            raise ParityError(f"{network} cannot be compared: {error}") from error

    return run


def outputs_of(run: Run, inputs: Mapping[str, NDArray]) -> list[NDArray]:
    """A program's outputs for inputs by name, in batches of ``BATCHES`` in turns.

    Args:
        run: the program.
        inputs: the same number of rows in each.

    Raises:
        ParityError: it cannot run.
    """
    rows = len(next(iter(inputs.values())))
    batches = [run({name: values[part] for name, values in inputs.items()}) for part in _slices(rows)]
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def compare(network: str, expected: Sequence[NDArray], found: Sequence[NDArray]) -> Parity:
    """Differences of all outputs ``(N, ...)`` of a network, taken together.

    Raises:
        ParityError: the outputs differ in number, shape or dtype, or a value is not finite.
    """
    kinds, found_kinds = ([(str(o.dtype), o.shape) for o in outputs] for outputs in (expected, found))
    if kinds != found_kinds:
        raise ParityError(f"{network}: expected the outputs {kinds}, found {found_kinds}; {ADVICE}")
    difference = np.concatenate(
        [np.abs(e.astype(np.float64) - f).ravel() for e, f in zip(expected, found, strict=True)]
    )
    if not np.isfinite(difference).all():
        raise ParityError(f"{network}: expected finite outputs, found infinite values or NaN; {ADVICE}")
    return Parity(
        network=network,
        faces=len(expected[0]),
        max=float(difference.max()),
        mean=float(difference.mean()),
        p999=float(np.quantile(difference, 0.999)),
        within_one=float((difference <= 1).mean()) if expected[0].dtype == np.uint8 else None,
    )


def gate(parity: Parity, precision: Precision) -> None:
    """Lets a network pass that keeps the bounds of its precision.

    Raises:
        ParityError: it does not.
    """
    bounds = BOUNDS[precision]
    limit = bounds.max_fraction if parity.within_one is None else bounds.max_levels
    broken = []
    if parity.max > limit:
        broken.append(f"largest difference {parity.max:.4g}, allowed {limit:g}")
    if parity.within_one is not None and parity.within_one < bounds.within_one:
        broken.append(f"share within one level {parity.within_one:.5f}, demanded {bounds.within_one}")
    if broken:
        raise ParityError(
            f"{parity.network} is not the network it was made from, by the bounds of {precision} on "
            f"{parity.faces} faces: {'; '.join(broken)}; {ADVICE}"
        )


def _slices(rows: int) -> Iterator[slice]:
    start = 0
    for size in cycle(BATCHES):
        if start >= rows:
            return
        yield slice(start, min(start + size, rows))
        start += size
