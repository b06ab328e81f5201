"""A classifier that asks the nearest labelled vectors; nothing is fitted.

Votes weigh exp(cosine / temperature), as in Wu et al., arXiv:1805.01978.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmfm.classify.head import expect_vectors, numbers
from mmfm.errors import InputError

if TYPE_CHECKING:
    from mmfm.index.protocol import VectorIndex

K, TEMPERATURE = 20, 0.07


class KNN:
    """Chances of labels by the k nearest of labelled unit vectors; ties in favour of earlier rows.

    labels: the L names, sorted.
    """

    loss = "softmax"

    def __init__(
        self, vectors: np.ndarray, targets: Sequence[str], *, k: int = K,
        temperature: float = TEMPERATURE, space: str = "",
    ) -> None:  # fmt: skip
        """vectors: (N, D) unit, of which k are asked (all when there are fewer); targets: their N
        labels. Raises InputError on none, on numbers that differ, and on k or temperature below 0.
        """
        self.vectors = expect_vectors(vectors)
        _check(k, temperature)
        if len(self.vectors) != len(targets) or not len(targets):
            raise InputError(
                f"got {len(self.vectors)} vectors and {len(targets)} labels, wanted as many"
            )
        self.labels = tuple(sorted(set(targets)))
        self.k, self.temperature, self.space = k, temperature, space
        self._targets = numbers(targets, self.labels)

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """(M, D) unit vectors -> (M, L) float32 probabilities: each label's share of the votes."""
        from mmfm.index.scan import exact_top  # why here: loading a model needs no index

        queries = expect_vectors(vectors, self.vectors.shape[1])
        rows, scores = exact_top(self.vectors, queries, self.k)
        return votes(self._targets[rows], scores, self.temperature, len(self.labels))

    def predict(self, vectors: np.ndarray) -> list[str]:
        """The label with the most votes for each vector."""
        return [self.labels[best] for best in self(vectors).argmax(axis=1)]


class IndexKNN:
    """The same over any vector engine, whose rows carry their label in the metadata.

    labels: what to choose from; default every value of `key`, for which all rows are looked at.
    Rows with other values, or none, have no vote.
    """

    loss = "softmax"

    def __init__(
        self, index: VectorIndex, key: str = "label", labels: Sequence[str] | None = None, *,
        k: int = K, temperature: float = TEMPERATURE, space: str = "",
    ) -> None:  # fmt: skip
        _check(k, temperature)
        if labels is None:
            told = index.metadata(index.ids())
            labels = sorted({str(one[key]) for one in told if one.get(key) is not None})
        if not labels:
            raise InputError(f"no row of the index has a {key!r} in its metadata; add it")
        self.index, self.key, self.labels = index, key, tuple(labels)
        self.k, self.temperature, self.space = k, temperature, space

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """(M, D) -> (M, L) float32 probabilities; equal ones where no neighbour has a label."""
        found = self.index.search(expect_vectors(vectors, self.index.dim), self.k)
        ids = sorted({one for some in found.ids for one in some})
        told = dict(zip(ids, self.index.metadata(ids)))
        places = {label: place for place, label in enumerate(self.labels)}
        targets = np.full(found.scores.shape, -1)
        for row, some in enumerate(found.ids):
            for column, one in enumerate(some):
                targets[row, column] = places.get(str(told[one].get(self.key)), -1)
        return votes(targets, found.scores, self.temperature, len(self.labels))

    def predict(self, vectors: np.ndarray) -> list[str]:
        """The label with the most votes for each vector."""
        return [self.labels[best] for best in self(vectors).argmax(axis=1)]


def votes(targets: np.ndarray, scores: np.ndarray, temperature: float, count: int) -> np.ndarray:
    """(M, K) labels (-1: none) and cosines -> (M, count) float32, rows of sum 1."""
    known = (targets >= 0) & np.isfinite(scores)
    away = np.where(known, scores, 0) - np.where(known, scores, -1).max(axis=1, keepdims=True)
    weight = np.exp(away.astype(np.float64) / temperature) * known
    flat = targets.clip(0) + count * np.arange(len(targets))[:, None]
    shares = np.bincount(flat.ravel(), weight.ravel(), count * len(targets))
    shares = shares.reshape(len(targets), count)
    total = shares.sum(axis=1, keepdims=True)
    shares = np.divide(shares, total, out=np.full(shares.shape, 1 / count), where=total > 0)
    return shares.astype(np.float32)


def _check(k: int, temperature: float) -> None:
    if k < 1 or not temperature > 0:
        raise InputError(f"k is {k}, temperature {temperature}; wanted k >= 1, temperature > 0")
