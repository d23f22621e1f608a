"""Faces for training: data set layouts, landmarks, and packs of aligned crops."""

from .celeba import read_celeba
from .errors import DataError
from .landmarks import find_landmarks
from .layouts import read_faces
from .lfw import FacePair, read_lfw
from .pack import FacePack, Labeller, load_pack, pack_faces, prepared_pack
from .records import ATTRIBUTES, FaceRecord, Split

__all__ = [
    "ATTRIBUTES",
    "DataError",
    "FacePack",
    "FacePair",
    "FaceRecord",
    "Labeller",
    "Split",
    "find_landmarks",
    "load_pack",
    "pack_faces",
    "prepared_pack",
    "read_celeba",
    "read_faces",
    "read_lfw",
]
