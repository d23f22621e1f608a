"""The three stages of the curriculum (section IV-D): attributes, attack, erasure."""

from .attack import AttackStage
from .attributes import AttributeStage
from .base import Losses, Networks, Player, Stage
from .erasure import ErasureStage

__all__ = ["AttackStage", "AttributeStage", "ErasureStage", "Losses", "Networks", "Player", "Stage"]
