"""How many candidates a first pass needs for a query, measured on the rows themselves.

How far codes can be trusted depends on the query: on the part of the spread of its dot products
that the components read leave out, its `rest`. Queries of many kinds are tried at every depth, and
a table says how many rows had to be kept, up to which rest, to miss hardly any of the best.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mmfm.index.coder import Coder
from mmfm.index.scan import exact_top

K = 10  # of a search that the table is for
_ROWS = 1 << 16  # compared with at most; of fewer rows, fewer are the best
_QUERIES = 96  # of every kind
_BINS = 8
_BLOCK = 1 << 12
_FOUND = (0.99, 1.0)  # of the queries tried keep all K best in a pass: asked alone, in a batch
_SPARE = (1.0, 1.25)  # as many candidates as that took, and as many in a batch

# nanoseconds of one thread with AVX2: for a number of a row multiplied with one query, or with
# many; for that in vectors too large for a cache; to select, for each row; to compare the signs of
# all rows, or of one here and there; for a number of a row fetched from anywhere
_ONE, _MANY, _STREAMED, _SELECTED, _SIGNS, _SIGNS_OF_ONE, _FETCHED = (
    0.15, 0.024, 0.25, 0.6, 3.5, 50.0, 0.7,
)  # fmt: skip


class Plan(NamedTuple):
    """For Q queries: read so many components, and signs of all rows or only of the `first` (Q,)
    best rows by components; compare the vectors of the `second` (Q,) best rows, or of all where
    these are 0. cost: nanoseconds, roughly.
    """

    depth: int
    signs_of_all: bool
    first: np.ndarray
    second: np.ndarray
    cost: float


class Calibration:
    """For P depths and B classes of queries. limits (P, B): the largest rest of a class; shares
    (2, 2, P, B): of all rows to be kept, in the first and second pass, for one query and for many.
    """

    def __init__(self, depths: np.ndarray, limits: np.ndarray, shares: np.ndarray) -> None:
        self.depths = depths
        self.limits = limits
        self.shares = shares
        self._priced = lru_cache(maxsize=16)(self._price)

    def cut(self, deepest: int) -> Calibration:
        """The same without the depths beyond one."""
        kept = self.depths <= deepest
        return Calibration(self.depths[kept], self.limits[kept], self.shares[:, :, kept])

    def plan(self, rests: np.ndarray, shape: tuple[int, ...], k: int) -> Plan:
        """The cheapest for queries of these rests (Q, P), the k best of vectors of this shape."""
        counts, costs, reading = self._priced(len(rests), shape, k)
        place = (rests[:, :, None] > self.limits).sum(2)  # (Q, P), B for what was never tried
        columns = np.arange(len(self.depths))
        cost = costs[:, columns, place].sum(1) + reading
        signs_of_all, depth = divmod(int(cost.argmin()), len(columns))
        first, second = counts[:, signs_of_all, depth][:, place[:, depth]]
        return Plan(int(self.depths[depth]), bool(signs_of_all), first, second, float(cost.min()))

    def _price(
        self, number: int, shape: tuple[int, ...], k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of so many queries: candidates (2 passes, 2 ways, P, B + 1) and nanoseconds of a query
        (2 ways, P, B + 1), for signs of candidates and of all; of reading all codes (P,).
        """
        num_rows, dim = shape
        wanted = np.ceil(self.shares[:, int(number > 1)] * (num_rows * max(1.0, k / K)))
        wanted = np.pad(np.maximum(wanted, 2 * k), ((0, 0), (0, 0), (0, 1)), constant_values=np.inf)
        first, second = wanted
        counts = np.array([[first, second], [np.minimum(first, second), second]])
        costs = np.array([first * _SIGNS_OF_ONE, np.full(first.shape, num_rows * _SIGNS)])
        costs += counts[1] * (dim * _FETCHED)
        exact = exact_cost(number, shape)
        rough = (costs < exact) & (2 * counts.max(0) < num_rows)
        reading = number * num_rows * (self.depths * max(_ONE / number, _MANY) + _SELECTED)
        return np.where(rough, counts, 0).astype(np.int64), np.where(rough, costs, exact), reading


def exact_cost(number: int, shape: tuple[int, ...]) -> float:
    """Nanoseconds for each of so many queries, to compare them with all vectors of a shape."""
    return shape[0] * shape[1] * max(_STREAMED / number, _MANY)


def calibrate(vectors: np.ndarray, coder: Coder, rng: np.random.Generator) -> Calibration:
    """Try queries on rows (N, D) at every depth of the coder, and keep those that are of use."""
    taken = rng.permutation(len(vectors))[: _ROWS + 4 * _QUERIES]
    held, kept = np.sort(taken[: 4 * _QUERIES]), np.sort(taken[4 * _QUERIES :])
    queries = _tried(vectors[held], coder.learned.mean, rng)
    ranks = _ranks(vectors, kept, queries, coder)
    rests = coder.rests(coder.turn(queries))
    limits = np.empty((len(coder.depths), _BINS), np.float32)
    shares = np.empty((2, 2, *limits.shape), np.float32)
    for depth, rest in enumerate(rests.T):
        bins = np.array_split(np.argsort(rest), _BINS)
        limits[depth] = [rest[members].max() for members in bins]
        of_bins = [np.quantile(ranks[:, members, depth], _FOUND, axis=1).T for members in bins]
        shares[:, :, depth] = np.maximum.accumulate(of_bins).transpose(1, 2, 0) / len(kept)
    shares *= np.array(_SPARE, np.float32)[:, None, None]
    found = Calibration(np.array(coder.depths), limits, shares)
    asked = [*np.array_split(rests, len(rests) // _QUERIES), *rests[::4, None]]
    return found.cut(max(found.plan(some, vectors.shape, K).depth for some in asked))


def _tried(rows: np.ndarray, mean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Queries like the rows and less and less like them: texts are not where pictures are."""
    few = len(rows) // 4
    centred = rows - mean

    def noise(*shape: int) -> np.ndarray:
        return _unit(rng.standard_normal((*shape, rows.shape[1]), dtype=np.float32))

    kinds = [
        rows,
        _unit(centred[:few] + centred[few : 2 * few]) + mean,
        centred[2 * few : 3 * few],
        rows[:few] + 0.7 * noise(1),
        rows[few : 2 * few] + 0.5 * noise(few),
        rows[2 * few : 3 * few] + noise(few),
    ]
    return np.concatenate([_unit(kind) for kind in kinds])


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(norms, 1e-12)).astype(np.float32)


def _ranks(vectors: np.ndarray, kept: np.ndarray, queries: np.ndarray, coder: Coder) -> np.ndarray:
    """(2, Q, P): how many rows of `kept` each pass must keep to have those of the K best."""
    allowed = np.zeros(len(vectors), bool)
    allowed[kept] = True
    rows, _ = exact_top(vectors, queries, -(-K * len(kept) // len(vectors)), allowed)
    turned = coder.turn(queries)
    asked = [coder.ask(turned, depth) for depth in coder.depths]
    worst = np.empty((2, len(queries), len(asked)), np.float32)
    for query, best in enumerate(rows):
        codes, everything = coder.encode(vectors[best]), slice(None)
        agreement = coder.agreement(codes, everything, asked[0], query)
        for depth, question in enumerate(asked):
            rough = coder.rough(codes, question)[query]
            better = coder.better(codes, everything, rough, agreement, question, query)
            worst[:, query, depth] = rough.min(), better.min()
    worst += 1e-5  # equal rows must not count against each other
    ranks = np.full(worst.shape, float(rows.shape[1]))
    for start in range(0, len(kept), _BLOCK):
        codes, everything = coder.encode(vectors[kept[start : start + _BLOCK]]), slice(None)
        rough_of = [coder.rough(codes, question) for question in asked]
        for query in range(len(queries)):
            agreement = coder.agreement(codes, everything, asked[0], query)
            for depth, question in enumerate(asked):
                rough = rough_of[depth][query]
                better = coder.better(codes, everything, rough, agreement, question, query)
                ranks[0, query, depth] += np.count_nonzero(rough > worst[0, query, depth])
                ranks[1, query, depth] += np.count_nonzero(better > worst[1, query, depth])
    return ranks
