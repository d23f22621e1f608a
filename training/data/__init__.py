"""Faces for training: data set layouts, landmarks, and packs of aligned crops."""

from .celeba import ATTRIBUTES, FaceRecord, read_celeba
from .landmarks import find_landmarks
from .pack import FacePack, load_pack, pack_faces, prepared_pack

__all__ = [
    "ATTRIBUTES",
    "FacePack",
    "FaceRecord",
    "find_landmarks",
    "load_pack",
    "pack_faces",
    "prepared_pack",
    "read_celeba",
]
