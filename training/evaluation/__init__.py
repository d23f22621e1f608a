"""Protection and erasure in numbers: rates with intervals, picture quality, strangers' recognisers."""

from .quality import quality_of
from .rates import FAR_ATTACK, FAR_ERASURE, attack_rates, owner_rates
from .recognition import Embedder, Embedding, OnnxRecognizer, Thresholds, load_recognizers, read_thresholds
from .statistics import Estimate, mean_of, share_of

__all__ = [
    "FAR_ATTACK",
    "FAR_ERASURE",
    "Embedder",
    "Embedding",
    "Estimate",
    "OnnxRecognizer",
    "Thresholds",
    "attack_rates",
    "load_recognizers",
    "mean_of",
    "owner_rates",
    "quality_of",
    "read_thresholds",
    "share_of",
]
