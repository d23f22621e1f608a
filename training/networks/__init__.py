"""The networks: generator, restorer and discriminator of ErasableMask, on AttGAN's blocks; the anonymiser."""

from .anonymiser import Anonymiser, Noise
from .blocks import ContextEncoder, Decoder, Encoder
from .discriminator import Discriminator
from .front_end import FrontEnd
from .generator import Generator
from .restorer import Restorer
from .sets import AnonymiserNetworks, Networks, NetworkSet

__all__ = [
    "Anonymiser",
    "AnonymiserNetworks",
    "ContextEncoder",
    "Decoder",
    "Discriminator",
    "Encoder",
    "FrontEnd",
    "Generator",
    "NetworkSet",
    "Networks",
    "Noise",
    "Restorer",
]
