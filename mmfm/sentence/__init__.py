"""The face of sentence-transformers 6.2 on our model, without importing it."""

from mmfm.sentence.encoder import SentenceEncoder

__all__ = ["SentenceEncoder"]
