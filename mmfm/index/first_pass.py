"""Search in two passes: 4-bit codes of all rows name candidates, exact products order them.

The codes are those of faiss's product quantiser, compared in registers (Andre et al., "Quicker
ADC", 2019), of rows turned so that every part of a code tells about as much. What is promised:
scores are those of `exact_top` to the bit, and so is the order of what is found. How many
candidates that takes is measured when the codes are made, so that of the 10 best rows about 1 in
1000 is missed; a query that the codes do not fit is compared with all rows.
"""

from __future__ import annotations

from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zipfile import BadZipFile

import numpy as np

from mmfm.errors import DataError
from mmfm.index.rows import library
from mmfm.index.scan import best_of_one, exact_top, row_scores

MIN_ROWS = 20_000  # of 512 numbers, which all together are compared in 3 ms
_PART = 4  # numbers of a vector to a part of its code, which has 4 bits
_K = 10  # of a search that is tried
_RECALL = 0.9985
_LEARNED = 1 << 14  # rows that codes are learned from
_TRIED = 1 << 18  # rows that are searched in to measure
_QUERIES = 256  # of each kind that is tried
_SPARE = 1.25  # as many candidates, and as doubtful queries, as were met when tried
_LEAST = 20  # candidates to each row asked for: of few rows, more cost next to nothing
_BINS = 4  # of queries tried, by doubt
_WORTH, _WORTH_OF_MANY = 0.05, 0.01  # of all rows as candidates are faster to compare than all
_BLOCK = 1 << 14
_AT_ONCE = 0x22  # queries of a batch two by two, as fit into the registers of AVX2: 1.2x faster


class Learned(NamedTuple):
    """What rows teach. turn (C, D): onto the axes of the codes; spread, noise (C,): the variance of
    rows along these, and of what the codes lose; limits (B,): of `_doubt`, ascending; shares (B,):
    of all rows, that become candidates up to a limit; beyond the last a query is compared with all.
    """

    turn: np.ndarray
    spread: np.ndarray
    noise: np.ndarray
    limits: np.ndarray
    shares: np.ndarray


class FirstPass:
    """Codes of rows, made by `fit` or `of`; `write` keeps them, and `FirstPass(path)` reads them
    when they are first used.
    """

    def __init__(self, source: tuple[Learned, Any] | Path) -> None:
        self._source = source

    @classmethod
    def fit(cls, vectors: np.ndarray, *, seed: int = 0) -> FirstPass | None:
        """Learn from rows (N, D) float32, unit length, and code them all.

        None for few or short rows, without faiss, and where so many candidates would be needed that
        `exact_top` is about as fast, as for vectors without any structure.
        """
        if len(vectors) < MIN_ROWS or vectors.shape[1] < 4 * _PART or not available():
            return None
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(vectors))
        sample = vectors[np.sort(order[:_LEARNED])]
        turn = _balanced(sample, rng)
        turned, faiss = sample @ turn.T, library("faiss", "faiss")
        codes = faiss.IndexPQFastScan(len(turn), len(turn) // _PART, 4, faiss.METRIC_INNER_PRODUCT)
        codes.qbs = _AT_ONCE
        codes.train(turned)
        lost = turned - codes.pq.decode(codes.pq.compute_codes(turned))
        nothing = np.empty(0, np.float32)
        learned = Learned(turn, turned.var(0), (lost * lost).mean(0), nothing, nothing)
        first = cls((learned, codes)).of(vectors)
        tried = vectors if len(vectors) <= _TRIED else vectors[np.sort(order[:_TRIED])]
        measured = (first if tried is vectors else first.of(tried))._measured(tried, rng)
        return cls((measured, first._codes)) if measured.shares[0] <= _WORTH else None

    def of(self, vectors: np.ndarray) -> FirstPass:
        """The same for other rows (N, D), like those that it was made for."""
        codes = library("faiss", "faiss").clone_index(self._codes)
        codes.reset()
        for start in range(0, len(vectors), _BLOCK):
            codes.add(vectors[start : start + _BLOCK] @ self.learned.turn.T)
        return FirstPass((self.learned, codes))

    @property
    def learned(self) -> Learned:
        return self._parts[0]

    @property
    def _codes(self) -> Any:
        return self._parts[1]

    @cached_property
    def _parts(self) -> tuple[Learned, Any]:
        if not isinstance(self._source, Path):
            return self._source
        faiss = library("faiss", "faiss")
        try:
            with np.load(self._source, allow_pickle=False) as arrays:
                codes = faiss.deserialize_index(arrays["codes"])
                return Learned(*(arrays[name] for name in Learned._fields)), codes
        except (OSError, ValueError, KeyError, RuntimeError, BadZipFile) as error:
            raise DataError(
                f"{self._source} is damaged ({error}); build the index again."
            ) from error

    def write(self, file: BinaryIO) -> None:
        codes = library("faiss", "faiss").serialize_index(self._codes)
        np.savez(file, codes=codes, **self.learned._asdict())

    def top(
        self, vectors: np.ndarray, queries: np.ndarray, k: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `exact_top`, of which nearly all rows are found. vectors: those that are coded.

        Of rows with equal scores any may be found.
        """
        vectors = np.asarray(vectors)  # a memory map is slow to slice
        count = len(vectors) if allowed is None else int(np.count_nonzero(allowed))
        k = min(k, len(vectors))
        rows = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        turned = queries @ self.learned.turn.T
        needed = self._needed(turned, count, k)
        asked = needed * (len(vectors) / max(1, count))
        rough = asked <= len(vectors) * (_WORTH if len(queries) == 1 else _WORTH_OF_MANY)
        if rough.any():
            most = int(np.ceil(asked[rough].max()))
            _, named = self._codes.search(turned[rough], most)
            for query, candidates in zip(np.flatnonzero(rough), named):
                if allowed is not None:
                    candidates = candidates[allowed[candidates]]
                candidates = candidates[: int(needed[query])]
                if len(candidates) < needed[query]:  # few of those near the query are allowed
                    rough[query] = False
                    continue
                score = row_scores(vectors, queries[query], candidates)
                rows[query], scores[query] = best_of_one(candidates, score, k)
        if not rough.all():
            rows[~rough], scores[~rough] = exact_top(vectors, queries[~rough], k, allowed)
        return rows, scores

    def _needed(self, turned: np.ndarray, count: int, k: int) -> np.ndarray:
        """(Q,) candidates for the k best of so many rows; infinite for queries that do not fit."""
        share = self._shares[self.learned.limits.searchsorted(self._doubt(turned))]
        return np.maximum(_LEAST * k, np.ceil(share * count * max(1.0, k / _K)))

    @cached_property
    def _shares(self) -> np.ndarray:
        return np.append(self.learned.shares, np.inf)

    def _doubt(self, turned: np.ndarray) -> np.ndarray:
        """(Q,): by how much codes blur the products of queries, to how much these differ."""
        squares = turned * turned
        return np.sqrt(squares @ self.learned.noise / (squares @ self.learned.spread + 1e-30))

    def _measured(self, vectors: np.ndarray, rng: np.random.Generator) -> Learned:
        """What these rows, which are coded, teach of how many candidates queries need."""
        some = vectors[np.sort(rng.permutation(len(vectors))[:_QUERIES])]
        most = int(np.ceil(_WORTH * len(vectors)))
        doubts, ranks = [], []
        for queries in _kinds(some, rng):
            # why one more: the best is often the row itself, which is always found
            rows = exact_top(vectors, queries, _K + 1)[0][:, 1:]
            turned = queries @ self.learned.turn.T
            named = self._codes.search(turned, most)[1]
            for candidates, best in zip(named, rows):
                found = 1.0 + np.flatnonzero(np.isin(candidates, best))
                ranks.append(np.pad(found, (0, _K - len(found)), constant_values=np.inf))
            doubts.append(self._doubt(turned))
        doubt, rank = np.concatenate(doubts), np.stack(ranks)
        bins = np.array_split(np.argsort(doubt), _BINS)
        limits = np.array([doubt[members].max() for members in bins])
        limits[-1] *= _SPARE
        worst = [np.quantile(rank[members], _RECALL, method="higher") for members in bins]
        shares = np.maximum.accumulate(worst) * (_SPARE / len(vectors))
        return self.learned._replace(limits=limits, shares=shares)


@cache
def available() -> bool:
    """Whether faiss is installed; without it all rows are compared."""
    return find_spec("faiss") is not None


def _balanced(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N, D) -> (C, D): the principal axes, dealt out so that all parts of a code tell as much.

    As in eigenvalue allocation (Ge et al., "Optimized Product Quantization", 2013), each part gets
    axes of about the same product of variances. The leading ones, one for each part, are mixed
    first: faiss rounds the tables of all parts in steps of the widest. C: D, made up to a multiple
    of `_PART` with axes that are 0.
    """
    dim = rows.shape[1]
    parts = -(-dim // _PART)
    variances, axes = np.linalg.eigh(np.cov(rows, rowvar=False, dtype=np.float64))
    turn = np.zeros((parts * _PART, dim))
    turn[:dim] = axes.T[::-1]
    logs = np.full(len(turn), -np.inf)
    logs[:dim] = np.log(np.maximum(variances[::-1], 1e-12))
    turn[:parts] = np.linalg.qr(rng.standard_normal((parts, parts)))[0] @ turn[:parts]
    logs = np.maximum(logs, np.log(1e-12)).reshape(_PART, parts)
    dealt, told = np.empty((parts, _PART), np.int64), np.zeros(parts)
    for place in range(_PART):
        part = np.argsort(told, kind="stable")
        dealt[part, place] = place * parts + np.arange(parts)
        if place:
            told[part] += logs[place]
    return turn[dealt.ravel()].astype(np.float32)


def _kinds(rows: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Queries like the rows and less and less like them: texts are not where pictures are."""
    chance = rng.standard_normal((len(rows) + 1, rows.shape[1]), dtype=np.float32)
    chance /= np.linalg.norm(chance, axis=1, keepdims=True)
    kinds = [rows, rows + 0.7 * chance[-1], rows + 0.5 * chance[:-1], rows - rows.mean(0)]
    return [kind / np.linalg.norm(kind, axis=1, keepdims=True) for kind in kinds]
