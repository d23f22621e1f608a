"""The processes of a run: Lightning Fabric starts and places them, means over them make them train as one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}
# How long ranks wait for one another: the first one finds the landmarks of a whole data set alone.
_TIMEOUT = timedelta(hours=24)

M = TypeVar("M", bound=nn.Module)


class ScaleError(ValueError):
    """A run cannot be spread over devices, processes or micro-batches as asked."""


class Ranks:
    """The processes that train a run together; each has whole networks and a part of every batch.

    Each rank differentiates the losses of its own faces. What is trained is the mean over the ranks, so
    every mean over ranks averages gradients on the way back as it averages values on the way there.

    Args:
        fabric: launched.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric

    @property
    def count(self) -> int:
        return self.fabric.world_size

    @property
    def first(self) -> bool:
        """Whether this process writes the run's files."""
        return self.fabric.is_global_zero

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of networks within it; losses and recognisers stay float32."""
        return self.fabric.autocast()

    def first_goes_ahead(self) -> AbstractContextManager[Any]:
        """Within it, the first process of all finishes before the others start: they find its files.

        On several machines too, which share the folders that a run reads and writes.
        """
        return self.fabric.rank_zero_first()

    def wait(self) -> None:
        """Until every rank is here."""
        self.fabric.barrier()

    def agree(self, value: float) -> float:
        """The first rank's number, on every rank."""
        if self.count == 1:
            return value
        agreed = torch.tensor(value, dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(agreed, 0)
        return float(agreed)

    def place(self, network: M) -> M:
        """Moves a network to train here, channels last; all ranks get the first one's weights.

        On several GPUs its batch norms take the statistics of the whole batch.
        """
        network.to(self.device)
        if self.count > 1:
            for tensor in network.state_dict().values():
                torch.distributed.broadcast(tensor, 0)
            if self.device.type == "cuda":
                network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return network.to(memory_format=torch.channels_last)

    def refuse_own_statistics(self, networks: Iterable[nn.Module]) -> None:
        """Checks that no batch norm trains on one rank's part of a batch.

        Raises:
            ScaleError: one does.
        """
        modules = (module for network in networks for module in network.modules())
        if self.count > 1 and any(isinstance(m, nn.BatchNorm2d) and m.training for m in modules):
            raise ScaleError(
                f"this stage's batch norm needs the statistics of the whole batch, which {self.count} CPU "
                "processes cannot share; train the stage in one process (--devices 1) or on GPUs"
            )

    def rows(self, batch: int, *, micro_batches: int, shares: int) -> np.ndarray | None:
        """Which faces of a batch this rank has, micro-batch after micro-batch; None for all in order.

        Args:
            batch: faces of the whole batch.
            micro_batches: of each rank.
            shares: equal runs of a batch that a stage treats differently; every micro-batch of every rank
                has its part of each.

        Raises:
            ScaleError: it cannot be divided equally.
        """
        if self.count * micro_batches == 1:
            return None
        if batch % (self.count * micro_batches * shares):
            raise ScaleError(
                f"a batch of {batch} faces cannot be divided equally: expected a multiple of {self.count} "
                f"process(es) x {micro_batches} micro-batch(es) x {shares} share(s) = "
                f"{self.count * micro_batches * shares}"
            )
        runs = np.arange(batch).reshape(shares, micro_batches, self.count, -1)
        return runs[:, :, self.fabric.global_rank].swapaxes(0, 1).ravel()

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Each tensor's mean over the ranks, differentiable any number of times; one exchange for all."""
        if self.count == 1:
            return list(tensors)
        flat = _Mean.apply(torch.cat([tensor.flatten() for tensor in tensors]), self.count)
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces every gradient by its mean over the ranks."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for gradient, mean in zip(gradients, self.mean(gradients), strict=True):
            gradient.copy_(mean)


class _Mean(torch.autograd.Function):
    """Mean over the ranks, forward and backward: ``Ranks`` says why."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, count: int) -> Tensor:
        ctx.count = count
        total = tensor.clone(memory_format=torch.contiguous_format)
        # Fabric's own all_reduce waits at a barrier each time; this one lets a GPU run ahead.
        torch.distributed.all_reduce(total)
        return total / count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Mean.apply(gradients[0], ctx.count), None


def launch(*, accelerator: str = "auto", devices: int | None = None, precision: str = "fp32") -> Ranks:
    """Starts the processes of a run, or joins those that ``torchrun`` started.

    Args:
        accelerator: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is some.
        devices: processes on this machine, each with a device; None for torchrun's number, or one.
        precision: see ``RunConfig``.

    Raises:
        ScaleError: there are fewer devices, torchrun started another number, or the precision is unknown.
    """
    if precision not in _PRECISIONS:
        raise ScaleError(f"expected the precision {' or '.join(_PRECISIONS)}, found {precision!r}")
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    here, machines = devices or 1, 1
    if TorchElasticEnvironment.detect():
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        machines = int(os.environ["WORLD_SIZE"]) // here
        if devices not in (None, here):
            raise ScaleError(
                f"torchrun started {here} process(es) here, --devices says {devices}; leave it out"
            )
    if accelerator == "cuda" and torch.cuda.device_count() < here:
        raise ScaleError(f"expected {here} CUDA device(s), found {torch.cuda.device_count()}")
    fabric = Fabric(
        accelerator=accelerator,
        devices=here,
        num_nodes=machines,
        strategy=DDPStrategy(timeout=_TIMEOUT) if here * machines > 1 else "auto",
        precision=_PRECISIONS[precision],  # type: ignore[arg-type]
    )
    fabric.launch()
    torch.backends.cudnn.allow_tf32 = False  # fp32 means it; convolutions would use TF32 by default
    return Ranks(fabric)
