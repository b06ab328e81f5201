"""What a person asks for (words, a picture, a vector, a mix) -> one unit vector."""

from __future__ import annotations

import os
from numbers import Real
from typing import Any, Protocol

import numpy as np

from mmfm.errors import DataError, ModelError


class Embedder(Protocol):
    """What the index uses of a model; MMFM fits. Both give (N, D) float32 with unit rows."""

    @property
    def backbone_hash(self) -> str: ...

    @property
    def name(self) -> str: ...

    def embed_images(self, images: list[Any]) -> np.ndarray: ...

    def embed_texts(self, texts: list[str]) -> np.ndarray: ...


def query_vector(
    query: Any, image: Any, minus: Any, model: Embedder | None, dim: int
) -> np.ndarray:
    """(dim,) float32, unit length.

    Every part is made a unit vector, times its weight, summed, and the sum made unit again:
    `query` parts with the weights given (1 for a lone one), `image` with 1, `minus` parts with -1.

    Raises DataError when nothing is asked, a vector does not fit, or the parts cancel out;
    ModelError when words or a picture come without a model.
    """
    parts = [*_weighted(query), *[(_picture(item), weight) for item, weight in _weighted(image)]]
    if not parts:
        raise DataError("Nothing to search for; give a text, a picture or a vector.")
    parts += [(item, -weight) for item, weight in _weighted(minus)]
    total = np.zeros(dim, np.float64)
    for item, weight in parts:
        total += weight * _unit(_embed(item, model, dim))
    length = float(np.linalg.norm(total))
    if length < 1e-6:
        raise DataError("The parts of the query cancel out; change a weight or what is subtracted.")
    return (total / length).astype(np.float32)


class _Picture:
    """Marks a source as a picture, so that a string is a path and not words."""

    def __init__(self, source: Any) -> None:
        self.source = source


def _picture(item: Any) -> _Picture:
    return item if isinstance(item, _Picture) else _Picture(item)


def _weighted(items: Any) -> list[tuple[Any, float]]:
    """None, one item, or a list of items and (item, weight) pairs -> list of (item, weight)."""
    if items is None:
        return []
    if isinstance(items, tuple) and _is_pair(items):
        items = [items]
    if not isinstance(items, (list, tuple)):
        return [(items, 1.0)]
    pairs = [item if _is_pair(item) else (item, 1.0) for item in items]
    for _, weight in pairs:
        if not np.isfinite(weight):
            raise DataError(f"Got the weight {weight} in a query; wanted a finite number.")
    return [(item, float(weight)) for item, weight in pairs]


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], Real)


def _embed(item: Any, model: Embedder | None, dim: int) -> np.ndarray:
    """One part of a query -> (dim,) numbers of any length."""
    if isinstance(item, np.ndarray) and (item.ndim == 1 or item.shape == (1, dim)):
        return _checked(item.reshape(-1), dim)
    what = "words" if isinstance(item, str) else "a picture"
    if model is None:
        raise ModelError(
            f"Searching with {what} needs the model that made the index; open it with "
            "Index.open(path, model=mmfm.load(...)), pass model=, or give a vector."
        )
    if isinstance(item, str):
        return _checked(np.asarray(model.embed_texts([item]))[0], dim)
    source = item.source if isinstance(item, _Picture) else item
    if isinstance(source, (str, os.PathLike)) and os.path.isdir(source):
        raise DataError(f"{os.fspath(source)} is a folder; search with one picture.")
    return _checked(np.asarray(model.embed_images([source]))[0], dim)


def _checked(vector: np.ndarray, dim: int) -> np.ndarray:
    if vector.shape != (dim,):
        raise DataError(f"Got a query vector of shape {vector.shape}, the index wants ({dim},).")
    vector = vector.astype(np.float64)
    if not np.isfinite(vector).all() or not vector.any():
        raise DataError("Got a query vector that is zero, NaN or infinite; wanted a direction.")
    return vector


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
