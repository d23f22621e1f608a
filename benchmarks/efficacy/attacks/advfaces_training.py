"""Trains AdvFaces' generator on aligned faces; stopped, it goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.manifest import sha256_of
from training.batches import epoch_batches, steps_per_epoch
from training.data import FacePack
from training.losses import discriminator_loss, generator_loss, perturbation_loss

from ..resumable import write_state
from .advfaces import AdvFaces, PatchDiscriminator, PerturbationGenerator
from .surrogates import Surrogates

# The paper's bound for impersonation, of faces of 160 pixels in [0, 1]; a norm grows with the side.
PAPER_NORM, PAPER_PX = 8.0, 160

Progress = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the generator is trained.

    Attributes:
        width: of the generator, and of the discriminator.
        steps: in all; the published code takes 100,000 of 32 faces.
        batch: faces in a step.
        learning_rate: of Adam; the paper's is 1e-4.
        identity_weight, perturbation_weight: lambda_i and lambda_p of the paper.
        save_every: steps between checkpoints.
        seed: of the weights and of the order of the faces.
    """

    width: int = 16
    steps: int = 1500
    batch: int = 16
    learning_rate: float = 5e-4
    identity_weight: float = 10.0
    perturbation_weight: float = 1.0
    save_every: int = 50
    seed: int = 0


class Players:
    """Generator and discriminator with their optimisers, how far they are, and how long it took."""

    def __init__(self, settings: Training) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.generator = PerturbationGenerator(settings.width)
            self.discriminator = PatchDiscriminator(settings.width)
        self.optimizers = [
            torch.optim.Adam(network.parameters(), lr=settings.learning_rate, betas=(0.5, 0.9))
            for network in (self.generator, self.discriminator)
        ]
        self.step = 0
        self.seconds = 0.0

    def save(self, path: Path, asked: dict[str, Any]) -> None:
        """Writes a checkpoint, whole or not at all."""
        state = {
            "asked": asked,
            "step": self.step,
            "seconds": self.seconds,
            "networks": [network.state_dict() for network in (self.generator, self.discriminator)],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_state(state, path)

    def load(self, path: Path, asked: dict[str, Any]) -> None:
        """Goes on from a checkpoint.

        Raises:
            ValueError: it was trained otherwise.
        """
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["asked"] != asked:
            raise ValueError(
                f"{path} was trained otherwise: expected {asked}, found {state['asked']}; use another "
                "--peers-folder, or delete it"
            )
        self.step, self.seconds = state["step"], state["seconds"]
        for network, weights in zip((self.generator, self.discriminator), state["networks"], strict=True):
            network.load_state_dict(weights)
        for optimizer, found in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(found)


def train(
    pack: FacePack,
    surrogates: Surrogates,
    path: Path,
    *,
    about: dict[str, Any],
    settings: Training,
    progress: Progress = iter,
) -> AdvFaces:
    """The attack, its generator from the checkpoint and, as far as that is not done, by training.

    Args:
        pack: aligned faces of the surrogates' crop size.
        path: of the checkpoint, which is written as training goes on.
        about: what else the training depends on; a checkpoint of something else is refused.
        progress: wraps the steps that are left.

    Raises:
        ValueError: the checkpoint was trained otherwise, or for longer.
        DataError: the pack does not fill a batch.
    """
    torch.set_flush_denormal(True)
    norm = PAPER_NORM * pack.crops.shape[1] / PAPER_PX
    asked = {**about, **asdict(settings), "perturbation_norm": norm}
    del asked["steps"], asked["save_every"]  # a checkpoint may be trained on
    players = Players(settings)
    if path.exists():
        players.load(path, asked)
    if players.step > settings.steps:
        raise ValueError(
            f"{path} was trained for {players.step} steps, expected at most {settings.steps}; ask for more "
            "(--advfaces-steps), or use another --peers-folder"
        )
    faces = _faces(pack, settings, players.step)
    for step in progress(range(players.step + 1, settings.steps + 1)):
        began = time.monotonic()
        train_step(next(faces), surrogates, players, settings, norm)
        players.seconds += time.monotonic() - began
        players.step = step
        if step % settings.save_every == 0 or step == settings.steps:
            players.save(path, asked)
    return AdvFaces(
        generator=players.generator.eval().requires_grad_(False),
        width=settings.width,
        steps=settings.steps,
        faces_per_step=settings.batch,
        perturbation_norm=norm,
        training_minutes=round(players.seconds / 60, 1),
        checkpoint_sha256=sha256_of(path.read_bytes()),
    )


def train_step(
    faces: Tensor, surrogates: Surrogates, players: Players, settings: Training, norm: float
) -> dict[str, float]:
    """One step of the discriminator, then one of the generator, on faces ``(N, 3, S, S)`` in [0, 1].

    Returns:
        The losses, unweighted.
    """
    perturbation = players.generator(faces)
    protected = (faces + perturbation).clamp(0, 1)
    logits = players.discriminator(torch.cat([faces, protected.detach()]))
    _descend(players.optimizers[1], discriminator_loss(*logits.chunk(2)))

    identity = (1 - surrogates.shared_cosine(protected)).mean()
    size = perturbation_loss(faces + perturbation, faces, norm)
    taken = generator_loss(players.discriminator(protected))
    _descend(
        players.optimizers[0],
        taken + settings.identity_weight * identity + settings.perturbation_weight * size,
    )
    return {"identity": identity.item(), "perturbation": size.item(), "generator": taken.item()}


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _faces(pack: FacePack, settings: Training, done: int) -> Iterator[Tensor]:
    """Batches in [0, 1] from a step on, the same whether or not training was stopped before it."""
    epoch, step = divmod(done, steps_per_epoch(pack, settings.batch))
    while True:
        for batch in epoch_batches(pack, settings.batch, seed=settings.seed, epoch=epoch, first_step=step):
            yield (batch.face + 1) / 2
        epoch, step = epoch + 1, 0
