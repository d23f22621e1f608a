"""Face recognisers to train against, behind one contract."""

from .card import RecognizerCard, SurrogateError
from .recognizer import Recognizer, load_recognizer
from .registry import check_disjoint, load_cards, select_white_box

__all__ = [
    "Recognizer",
    "RecognizerCard",
    "SurrogateError",
    "check_disjoint",
    "load_cards",
    "load_recognizer",
    "select_white_box",
]
