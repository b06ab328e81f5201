"""Search by cosine over embeddings kept on disk; knows a model only by the methods it calls."""

from mmfm.index.exact import Hit, Index

__all__ = ["Hit", "Index"]
