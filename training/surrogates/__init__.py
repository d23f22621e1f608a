"""Face recognisers to train against, behind one contract."""

from .card import RecognizerCard, load_cards, select_white_box
from .recognizer import Recognizer, load_recognizer

__all__ = ["Recognizer", "RecognizerCard", "load_cards", "load_recognizer", "select_white_box"]
