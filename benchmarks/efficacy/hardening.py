"""Adversarial fine-tuning of a face recogniser: the paper's professional hacker (section V, Table IV).

The recogniser learns to say of an attacked face what the original says of the clean one (adversarially robust
distillation, Goldblum et al., 2020): that needs no labels, and keeps what it knows of people.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from runtime.manifest import sha256_of
from training.surrogates import Recognizer, RecognizerCard, load_recognizer

from .pgd import Pgd
from .resumable import Resumable
from .verification import to_unit


@dataclass(frozen=True, kw_only=True)
class Hardening:
    """How a recogniser is hardened.

    Attributes:
        steps: of the optimiser.
        batch: faces a step; half of them are driven away from themselves, half towards another one.
        learning_rate: of Adam, falling to 0 along half a cosine.
        identity_weight: of the identity term, see ``loss``; 0 leaves it out.
        identity_scale: by which it multiplies cosines before the softmax.
    """

    steps: int = 330
    batch: int = 16
    learning_rate: float = 5e-4
    identity_weight: float = 0.0
    identity_scale: float = 16.0
    attack: Pgd = dataclasses.field(default_factory=Pgd)
    seed: int = 0


def loss(
    clean: Tensor, attacked: Tensor, anchors: Tensor, people: Tensor, settings: Hardening
) -> dict[str, Tensor]:
    """The terms, by name, already weighted: each a mean over the batch, 0 where every face says its anchor.

    ``identity`` is the cross-entropy of finding a face's own anchor among the batch's by its attacked
    embedding; other pictures of the same person do not compete.

    Args:
        clean, attacked: ``(N, d)`` embeddings by the recogniser that is trained.
        anchors: ``(N, d)`` of the clean faces by the original.
        people: ``(N,)`` who it is.
    """
    terms = {
        "clean": (1 - (clean * anchors).sum(1)).mean(),
        "attacked": (1 - (attacked * anchors).sum(1)).mean(),
    }
    if settings.identity_weight:
        logits = settings.identity_scale * attacked @ anchors.T
        same = (people[:, None] == people) & ~torch.eye(len(people), dtype=torch.bool)
        own = functional.cross_entropy(logits.masked_fill(same, -torch.inf), torch.arange(len(people)))
        terms["identity"] = settings.identity_weight * own
    return terms


def trainable(card: RecognizerCard) -> Recognizer:
    """A recogniser whose parameters take gradients."""
    recognizer = load_recognizer(card)
    recognizer.network.requires_grad_(True)
    return recognizer


class Training(Resumable):
    """A hardening that goes on where it stopped.

    Args:
        card: of the original.
        faces: ``(N, H, W, 3)`` uint8 RGB at its template and size.
        people: who each is.
        settings: must be the same whenever it goes on.
        folder: keeps ``NAME.pt``.

    Raises:
        ValueError: there is not one batch of faces, or the folder holds a hardening with other settings,
            faces, or of another file.
    """

    def __init__(
        self,
        card: RecognizerCard,
        faces: NDArray[np.uint8],
        people: Sequence[str],
        settings: Hardening,
        folder: Path,
    ) -> None:
        assert card.path is not None
        if len(faces) < settings.batch:
            raise ValueError(f"expected at least one batch of {settings.batch} faces, found {len(faces)}")
        self.settings = settings
        self.faces, self.people = faces, torch.from_numpy(np.unique(people, return_inverse=True)[1])
        self.original, self.recognizer = load_recognizer(card), trainable(card)
        self.parameters = list(self.recognizer.network.parameters())
        given = {
            **dataclasses.asdict(settings),
            "faces": len(faces),
            "of": sha256_of(card.path.read_bytes()),
        }
        optimizer = torch.optim.Adam(self.parameters, lr=settings.learning_rate)
        network = self.recognizer.network
        super().__init__(folder / f"{card.name}.pt", given, network, optimizer, steps=settings.steps)

    def _step(self) -> dict[str, float]:
        settings, batch = self.settings, self.settings.batch
        epoch, number = divmod(self.done, len(self.faces) // batch)
        order = np.random.default_rng([settings.seed, epoch]).permutation(len(self.faces))
        chosen = order[number * batch : (number + 1) * batch]
        torch.manual_seed((settings.seed << 32) + self.done)
        faces = to_unit(self.faces[chosen])
        faces = torch.where(torch.rand(len(faces), 1, 1, 1) < 0.5, faces.flip(3), faces)
        with torch.no_grad():
            anchors = self.original.embed(faces)
        towards = (torch.arange(batch) % 2 * 2 - 1).float()
        goals = torch.where(towards[:, None] > 0, anchors.roll(1, 0), anchors)
        attacked = settings.attack(self.recognizer.embed, faces, goals, towards)
        self.optimizer.param_groups[0]["lr"] = (
            settings.learning_rate * (1 + math.cos(math.pi * self.done / self.settings.steps)) / 2
        )
        embeddings = self.recognizer.embed(torch.cat([faces, attacked]))
        clean, moved = embeddings.split(batch)
        terms = loss(clean, moved, anchors, self.people[chosen], settings)
        self.optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        self.optimizer.step()
        return {name: float(value.detach()) for name, value in terms.items()}


def write_hardened(card: RecognizerCard, network: nn.Module, path: Path) -> None:
    """Writes the original's ONNX graph with the trained convolutions' weights in place of its own.

    Raises:
        ValueError: something else than the convolutions was trained, or they are not the graph's.
    """
    assert card.path is not None
    model = onnx.load(card.path)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    trained = sum(parameter.numel() for layer in layers for parameter in layer.parameters())
    if len(nodes) != len(layers) or trained != sum(p.numel() for p in network.parameters()):
        raise ValueError(
            f"expected parameters of {len(nodes)} convolutions alone, found {len(layers)} convolutions with "
            f"{trained} of {sum(p.numel() for p in network.parameters())} parameters"
        )
    for node, layer in zip(nodes, layers, strict=True):  # both in the order they are computed in
        for name, values in zip(node.input[1:], layer.parameters(), strict=True):
            tensor = initializers[name]
            if list(tensor.dims) != list(values.shape):
                raise ValueError(f"expected {tuple(tensor.dims)} for {name}, found {tuple(values.shape)}")
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.detach().contiguous().numpy(), name))
    onnx.checker.check_model(model)
    onnx.save(model, path)
