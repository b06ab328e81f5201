"""Search by cosine over embeddings kept on disk; knows a model only by the methods it calls."""

from mmfm.index.flat import FlatIndex
from mmfm.index.index import Hit, Index
from mmfm.index.protocol import Found, VectorIndex

__all__ = ["FlatIndex", "Found", "Hit", "Index", "VectorIndex"]
