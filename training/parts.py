"""What a face costs in a step's networks: encoder and decoder by precision and format, recognisers, LPIPS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from .anonymiser_config import AnonymiserNetworkConfig
from .batches import Batch
from .config import NetworkConfig
from .networks import Anonymiser, Generator
from .perceptual import Lpips
from .probe import clock, first_batch, random_faces
from .shared_config import NetworkSizes
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
    config: NetworkSizes,
    recognizers: Sequence[Recognizer],
    perceptual: Lpips | None,
    device: torch.device,
    *,
    seconds_per_part: float = 1.0,
) -> tuple[Part, ...]:
    """Measures passes over random faces.

    Encoder and decoder train; recognisers and LPIPS are frozen and pass gradients to the face.
    """
    batch = first_batch(random_faces(FACES, config.image_size, _n_attributes(config)), FACES).to(device)
    face = batch.face

    def timed(name: str, work: Callable[[], None]) -> Part:
        work()  # the first pass of a size is slow
        passes_s: list[float] = []
        while sum(passes_s) < seconds_per_part or len(passes_s) < 3:
            started = clock(device)
            work()
            passes_s.append(clock(device) - started)
        return Part(name=name, ms_per_face=1000 * median(passes_s) / FACES)

    def coding(precision: str, memory: torch.memory_format) -> Callable[[], None]:
        network, seen, attributes = _coder(config, batch)
        network = network.to(device).to(memory_format=memory)
        seen = seen.contiguous(memory_format=memory)

        def work() -> None:
            network.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                decoded = network.decoder(network.encoder(seen), attributes)[-1]
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


def _n_attributes(config: NetworkSizes) -> int:
    return config.n_attributes if isinstance(config, NetworkConfig) else 1


def _coder(config: NetworkSizes, batch: Batch) -> tuple[Generator | Anonymiser, Tensor, Tensor | None]:
    """A system's network with encoder and decoder, what the one sees and what the other is told."""
    if isinstance(config, AnonymiserNetworkConfig):  # it sees what is left of the face, and three tones
        return config.anonymiser(), torch.cat([batch.face[:, :1], batch.face], dim=1), None
    assert isinstance(config, NetworkConfig)
    return config.generator(), batch.face, batch.attributes


def _word(memory: torch.memory_format) -> str:
    return "channels last" if memory is torch.channels_last else "channels first"
