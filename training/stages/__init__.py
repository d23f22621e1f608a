"""The mask's three stages (section IV-D), attributes, attack and erasure, and the anonymiser's only one."""

from .anonymise import AnonymiseStage
from .attack import AttackStage
from .attributes import AttributeStage
from .base import Losses, Player, Stage
from .erasure import ErasureStage

__all__ = [
    "AnonymiseStage",
    "AttackStage",
    "AttributeStage",
    "ErasureStage",
    "Losses",
    "Player",
    "Stage",
]
