"""What a face costs in the networks of a step: the generator by precision and format, recognisers, LPIPS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn

from .config import NetworkConfig
from .perceptual import Lpips
from .probe import clock, first_batch, random_faces
from .surrogates import Recognizer

FACES = 16  # a measured pass
# Precision and memory format in which encoder and decoder are measured.
FORMATS = (
    ("fp32", torch.contiguous_format),
    ("fp32", torch.channels_last),
    ("bf16", torch.channels_last),
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A network of a step, measured alone, forward and backward."""

    name: str
    ms_per_face: float


def time_parts(
    config: NetworkConfig,
    recognizers: Sequence[Recognizer],
    perceptual: Lpips | None,
    device: torch.device,
    *,
    seconds_per_part: float = 1.0,
) -> tuple[Part, ...]:
    """Measures passes over random faces.

    Encoder and decoder train, as in stage 1; recognisers and LPIPS are frozen and pass gradients to the face.
    """
    batch = first_batch(random_faces(FACES, config.image_size, config.n_attributes), FACES).to(device)
    face, attributes = batch.face, batch.attributes

    def timed(name: str, work: Callable[[], None]) -> Part:
        work()  # the first pass of a size is slow
        passes_s: list[float] = []
        while sum(passes_s) < seconds_per_part or len(passes_s) < 3:
            started = clock(device)
            work()
            passes_s.append(clock(device) - started)
        return Part(name=name, ms_per_face=1000 * median(passes_s) / FACES)

    def coding(precision: str, memory: torch.memory_format) -> Callable[[], None]:
        generator = config.generator().to(device).to(memory_format=memory)
        seen = face.contiguous(memory_format=memory)

        def work() -> None:
            generator.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                decoded = generator.decoder(generator.encoder(seen), attributes)[-1]
            decoded.float().square().mean().backward()

        return work

    def looking(network: nn.Module, *more: torch.Tensor) -> Callable[[], None]:
        seen = face.clone().requires_grad_()

        def work() -> None:
            seen.grad = None
            network(seen, *more).sum().backward()

        return work

    parts = [
        timed(f"encoder and decoder, {precision}, {_word(memory)}", coding(precision, memory))
        for precision, memory in FORMATS
    ]
    if perceptual is not None:
        parts.append(timed("LPIPS, fp32", looking(perceptual, face)))
    for recognizer in recognizers:
        grid = recognizer.sampling_grid(batch.landmarks, config.image_size).to(device)
        parts.append(timed(f"{recognizer.card.name}, fp32", looking(recognizer, grid)))
    return tuple(parts)


def _word(memory: torch.memory_format) -> str:
    return "channels last" if memory is torch.channels_last else "channels first"
