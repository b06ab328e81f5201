"""Short codes of vectors, from which their dot products with a query can be guessed.

A code has the leading principal components of the centred vector (Jolliffe, Principal Component
Analysis, 2002), the lengths of what each number of them leaves out, and the signs of the next
components after a random rotation (as in RaBitQ, Gao and Long, SIGMOD 2024). Components are read of
all rows; signs then tell which of the better rows are really near.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

DEPTHS = (8, 16, 24, 32, 48, 64, 96, 128)  # numbers of components that can be read
_SIGNED = 32  # the signs are of the components after these
_WORDS = 3  # of 64 signs
_BLOCK = 1 << 13
_TRUST = 0.3  # two near vectors agree in what is left out too, by about this cosine
_GAIN, _SHRINK = 1.2, 0.3  # a small agreement of signs is mostly chance, a large one is not


class Learned(NamedTuple):
    """What a coder learns, float32.

    mean (D,); rotation (D, D): axes, the most telling first; spread (D,): the variance along each;
    mixing (S, S): rotates what the signs are taken of.
    """

    mean: np.ndarray
    rotation: np.ndarray
    spread: np.ndarray
    mixing: np.ndarray


class Asked(NamedTuple):
    """Q queries as they are compared with codes: numbers (Q, columns) for the components, signs
    (Q, words) uint64, lengths (Q,) of what the components leave out.
    """

    numbers: np.ndarray
    signs: np.ndarray
    lengths: np.ndarray


class Coder:
    """Made by `fit`, or from what that learned. depths: what can be read of its codes."""

    def __init__(self, learned: Learned, deepest: int) -> None:
        self.learned = learned
        self.depths = tuple(depth for depth in DEPTHS if depth <= deepest)
        self._places = np.array([_columns(place) for place in range(deepest)])
        count = len(learned.mixing)
        cosine = np.sin(np.pi / 2 * (1 - 2 * np.arange(count + 1) / max(1, count)))
        agreement = _GAIN * cosine * np.abs(cosine) ** _SHRINK - _TRUST if count else np.zeros(1)
        self._agreement = agreement.astype(np.float32)  # by how many signs differ

    @classmethod
    def fit(cls, vectors: np.ndarray, rng: np.random.Generator) -> Coder:
        """Learn from rows (N, D).

        The first axis is the direction of the mean: vectors of one model have a large part in
        common, and so have queries, so that dot products differ along it more than the variance
        of the vectors alone tells.
        """
        dim = vectors.shape[1]
        mean = vectors.mean(0, dtype=np.float64)
        centred = vectors - mean
        first = mean / max(float(np.linalg.norm(mean)), 1e-12)
        along = centred @ first
        centred -= np.outer(along, first)
        variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
        rotation = np.concatenate([first[:, None], axes[:, :0:-1]], axis=1)
        spread = np.concatenate([[np.var(along)], np.maximum(variances[:0:-1], 0)])
        signs = 64 * min(_WORDS, max(0, (dim - _SIGNED) // 64))
        mixing = np.linalg.qr(rng.standard_normal((signs, signs)))[0]
        arrays = [array.astype(np.float32) for array in (mean, rotation, spread, mixing)]
        return cls(Learned(*arrays), dim)

    @property
    def _words(self) -> int:
        return len(self.learned.mixing) // 64

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) -> codes (N, C) of 32 bits in Fortran order, so that a part of all rows lies
        together; `np.save` and `np.load` keep that. Codes of parts cannot be joined.
        """
        words = self._words
        codes = np.empty((2 * words + _columns(self.depths[-1]), len(vectors)), np.float32)
        signs = codes[: 2 * words].reshape(-1).view(np.uint64).reshape(words, len(vectors))
        for start in range(0, len(vectors), _BLOCK):
            turned = (vectors[start : start + _BLOCK] - self.learned.mean) @ self.learned.rotation
            part = slice(start, start + len(turned))
            signs[:, part] = self._signs(turned).T
            for begin, end in zip((0, *self.depths), self.depths):
                column = 2 * words + _columns(end) - 1
                codes[column - end + begin : column, part] = turned[:, begin:end].T
                codes[column, part] = np.linalg.norm(turned[:, end:], axis=1)
        return codes.T

    def turn(self, queries: np.ndarray) -> np.ndarray:
        """(Q, D) -> (Q, D), as `rests` and `ask` want them."""
        return queries @ self.learned.rotation

    def rests(self, turned: np.ndarray) -> np.ndarray:
        """(Q, P): of each depth, the part of the spread of dot products that it leaves out."""
        sums = np.cumsum(turned * turned * self.learned.spread, axis=1, dtype=np.float64)
        total = np.maximum(sums[:, -1:], np.finfo(np.float64).tiny)
        seen = sums[:, np.array(self.depths) - 1]
        return np.sqrt(np.maximum(total - seen, 0) / total)

    def ask(self, turned: np.ndarray, depth: int) -> Asked:
        """Queries (Q, D) for reading so many components."""
        numbers = np.zeros((len(turned), _columns(depth)), np.float32)
        numbers[:, self._places[:depth]] = turned[:, :depth]
        lengths = np.linalg.norm(turned[:, depth:], axis=1)
        numbers[:, -1] = _TRUST * lengths
        return Asked(numbers, self._signs(turned), lengths)

    def rough(self, codes: np.ndarray, asked: Asked) -> np.ndarray:
        """(Q, N) float32 that rise with the dot products, by components alone."""
        begin = 2 * self._words
        return asked.numbers @ codes.T[begin : begin + asked.numbers.shape[1]]

    def agreement(
        self, codes: np.ndarray, rows: np.ndarray | slice, asked: Asked, query: int
    ) -> np.ndarray:
        """(R,): the cosine of what rows and a query have beyond the components, by signs alone,
        less what `rough` takes it for.
        """
        columns = codes.T
        words = columns[: 2 * self._words].reshape(-1).view(np.uint64)
        signs = words.reshape(self._words, len(codes))
        differing = np.zeros(columns[0, rows].shape, np.uint8)
        for word, wanted in zip(signs, asked.signs[query]):
            differing += np.bitwise_count(word[rows] ^ wanted)
        return self._agreement.take(differing)

    def better(
        self, codes: np.ndarray, rows: np.ndarray | slice, rough: np.ndarray,
        agreement: np.ndarray, asked: Asked, query: int,
    ) -> np.ndarray:  # fmt: skip
        """The rough scores (R,) of some rows for one query, with their agreement."""
        lengths = codes.T[2 * self._words + asked.numbers.shape[1] - 1, rows]
        scores = agreement * lengths
        scores *= asked.lengths[query]
        scores += rough
        return scores

    def _signs(self, turned: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, words) uint64."""
        mixing = self.learned.mixing
        mixed = turned[:, _SIGNED : _SIGNED + len(mixing)] @ mixing
        return np.packbits(mixed > 0, axis=1).view(np.uint64).reshape(len(turned), self._words)


def _columns(depth: int) -> int:
    """Floats of a code to be read: the components, and behind those of each depth a length."""
    return depth + sum(one <= depth for one in DEPTHS)
