"""Generator, restorer and discriminator of ErasableMask, on AttGAN's blocks."""

from .blocks import ContextEncoder, Decoder, Encoder
from .discriminator import Discriminator
from .generator import Generator
from .restorer import Restorer

__all__ = ["ContextEncoder", "Decoder", "Discriminator", "Encoder", "Generator", "Restorer"]
