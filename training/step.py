"""One step: every player lowers its own losses over a batch, whoever has which part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .batches import Batch
from .ranks import Ranks
from .stages import Losses, Player, Stage


def take_step(
    stage: Stage,
    batch: Batch,
    optimizers: Mapping[str, torch.optim.Optimizer],
    ranks: Ranks,
    *,
    weights: Mapping[str, float],
    number: int,
    seed: int,
    micro_batches: int = 1,
) -> dict[str, float]:
    """Players step one after the other, from a forward pass that they share.

    With micro-batches every player makes passes of its own, with the same random numbers: no two graphs
    are ever alive, and a player still meets those before it as they have become.

    Args:
        batch: this rank's part.
        weights: factor of each loss.
        number: of the step in the run.
        seed: of the step's random numbers, the same on every rank.

    Returns:
        Every loss unweighted, the players' totals and the stage's figures: means over the whole batch.
    """
    parts = batch.split(micro_batches)
    figures: dict[str, list[Tensor]] = {}

    def note(values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            figures.setdefault(name, []).append(value.detach())

    def forward(part: Batch) -> Any:
        torch.manual_seed(seed)
        with ranks.autocast():
            outputs = stage.forward(part.to(ranks.device), number)
        note(stage.figures(outputs))
        return outputs

    shared = forward(parts[0]) if len(parts) == 1 else None
    for player in stage.players:
        optimizers[player.name].zero_grad(set_to_none=True)
        for part in parts:
            outputs = forward(part) if shared is None else shared
            note(_backward(stage, player, outputs, ranks, weights, share=1 / len(parts)))
            del outputs  # and its graph, before the next
        ranks.average_gradients(player.parameters())
        optimizers[player.name].step()
    [means] = ranks.mean([torch.stack([torch.stack(values).mean() for values in figures.values()])])
    return dict(zip(figures, means.tolist(), strict=True))


def _backward(
    stage: Stage, player: Player, outputs: Any, ranks: Ranks, weights: Mapping[str, float], *, share: float
) -> Losses:
    """Adds ``share`` of the player's gradient; returns its losses and their total."""
    with ranks.autocast(), _frozen_but(player, stage.players):
        losses = player.losses(outputs)
    total = _total(losses, weights)
    (share * total).backward(inputs=player.parameters())
    return {**losses, f"total_{player.name}": total}


def _total(losses: Losses, weights: Mapping[str, float]) -> Tensor:
    if missing := losses.keys() - weights.keys():
        raise ValueError(f"no weight for the losses {', '.join(sorted(missing))}")
    return torch.stack([weights[name] * value for name, value in losses.items()]).sum()


class _frozen_but:  # noqa: N801 - reads as a verb in its with statement
    """Within it, only one player's modules ask for gradients: none is computed to be thrown away."""

    def __init__(self, player: Player, players: Sequence[Player]) -> None:
        own = set(player.modules)
        self.others: list[nn.Module] = [m for p in players for m in p.modules if m not in own]

    def __enter__(self) -> None:
        for module in self.others:
            module.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for module in self.others:
            module.requires_grad_(True)
