"""What a person asks for (words, a picture, a vector, a mix) -> one unit vector."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mmfm.errors import DataError, ModelError

# a picture's source -> its vector where it is known without the model
Stored = Callable[[Any], "np.ndarray | None"]


class Embedder(Protocol):
    """What the index uses of a model; MMFM fits. Both give (N, D) float32 with unit rows."""

    @property
    def backbone_hash(self) -> str: ...

    @property
    def name(self) -> str: ...

    def embed_images(self, images: list[Any]) -> np.ndarray: ...

    def embed_texts(self, texts: list[str]) -> np.ndarray: ...


@dataclass(frozen=True)
class Part:
    """One thing asked for and its weight. vector: known already; None for what a model must see."""

    item: Any
    weight: float
    vector: np.ndarray | None

    @property
    def is_text(self) -> bool:
        return isinstance(self.item, str)


class _Picture:
    """Marks a source as a picture, so that a string is a path and not words."""

    def __init__(self, source: Any) -> None:
        self.source = source


class Query:
    """The parts of one question. Raises DataError when nothing is asked, or not understandably.

    `query` parts have the weights given (1 for a lone one), `image` 1, `minus` parts -1 times it.
    """

    def __init__(self, query: Any, image: Any, minus: Any, dim: int, stored: Stored) -> None:
        items = [
            *_weighted(query),
            *[(_picture(item), weight) for item, weight in _weighted(image)],
        ]
        if not items:
            raise DataError("Nothing to search for; give a text, a picture or a vector.")
        items += [(item, -weight) for item, weight in _weighted(minus)]
        self.parts = [_part(item, weight, dim, stored) for item, weight in items]

    @property
    def texts(self) -> list[str]:
        return [part.item for part in self.parts if part.is_text]

    @property
    def needs(self) -> set[str]:
        """What a model must embed: "texts", "pictures", both or nothing."""
        missing = [part for part in self.parts if part.vector is None]
        return {"texts" if part.is_text else "pictures" for part in missing}


def query_vectors(queries: Sequence[Query], model: Embedder | None, dim: int) -> np.ndarray:
    """(Q, dim) float32, unit length: parts made unit, times their weights, summed, unit again.

    Texts and pictures of all queries are embedded together. Raises DataError when a vector does
    not fit or parts cancel out; ModelError when words or a picture come without a model.
    """
    missing = [part for query in queries for part in query.parts if part.vector is None]
    found = _embedded(missing, model)
    rows = np.zeros((len(queries), dim), np.float64)
    for row, query in zip(rows, queries):
        for part in query.parts:
            vector = found[id(part)] if part.vector is None else part.vector
            row += part.weight * _unit(_checked(vector, dim))
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if (lengths < 1e-6).any():
        raise DataError("The parts of the query cancel out; change a weight or what is subtracted.")
    return (rows / lengths).astype(np.float32)


def _embedded(parts: Sequence[Part], model: Embedder | None) -> dict[int, np.ndarray]:
    """The model's vector of every part, by the part's own id."""
    if not parts:
        return {}
    if model is None:
        what = "words" if parts[0].is_text else "a picture"
        raise ModelError(
            f"Searching with {what} needs the model that made the index; open it with "
            "Index.open(path, model=mmfm.load(...)), pass model=, or give a vector."
        )
    texts = [part for part in parts if part.is_text]
    pictures = [part for part in parts if not part.is_text]
    found: dict[int, np.ndarray] = {}
    if texts:
        found.update(zip(map(id, texts), model.embed_texts([part.item for part in texts])))
    if pictures:
        found.update(zip(map(id, pictures), model.embed_images([p.item for p in pictures])))
    return found


def _part(item: Any, weight: float, dim: int, stored: Stored) -> Part:
    if isinstance(item, str):
        return Part(item, weight, None)
    if isinstance(item, np.ndarray) and (item.ndim == 1 or item.shape == (1, dim)):
        return Part(item, weight, item.reshape(-1))
    source = item.source if isinstance(item, _Picture) else item
    if isinstance(source, (str, os.PathLike)):
        if os.path.isdir(source):
            raise DataError(f"{os.fspath(source)} is a folder; search with one picture.")
        source = Path(source)  # a str is words
    return Part(source, weight, stored(source))


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


def _checked(vector: Any, dim: int) -> np.ndarray:
    vector = np.asarray(vector)
    if vector.shape != (dim,):
        raise DataError(f"Got a query vector of shape {vector.shape}, the index wants ({dim},).")
    vector = vector.astype(np.float64)
    if not np.isfinite(vector).all() or not vector.any():
        raise DataError("Got a query vector that is zero, NaN or infinite; wanted a direction.")
    return vector


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
