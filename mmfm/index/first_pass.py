"""Search in two passes: short codes of all rows name candidates, exact products order them.

What is promised: scores are exact, as those of `exact_top`, and so is the order of what is found.
Of the 10 best rows about 1 in 1000 is missed, measured when the codes are made on rows held out, on
mixtures of rows, and on queries that lie elsewhere, as texts do in an index of pictures. A query
that is less like the rows gets more candidates, at last all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from mmfm.index.calibration import Calibration, K, calibrate, exact_cost
from mmfm.index.coder import Asked, Coder, Learned
from mmfm.index.scan import best_of_one, exact_top, row_scores

MIN_ROWS = 20_000  # of 512 numbers, which all together are compared in 3 ms
_SAMPLE = 1 << 14
_QUERIES = 256  # at a time
_SCORES = 1 << 20  # of a block, all queries together
_RECUT = 4  # blocks between two raises of what a candidate must have


class FirstPass:
    """Made by `fit`. coder: makes codes; calibration: how many candidates a query needs."""

    def __init__(self, coder: Coder, calibration: Calibration) -> None:
        self.coder = coder
        self.calibration = calibration

    @classmethod
    def fit(cls, vectors: np.ndarray, *, seed: int = 0) -> FirstPass | None:
        """Learn from rows (N, D) float32, unit length, what their codes shall be.

        None for few rows, and where so many candidates would be needed that `exact_top` is about
        as fast, as for vectors without any structure.
        """
        if len(vectors) < MIN_ROWS:
            return None
        rng = np.random.default_rng(seed)
        sample = np.sort(rng.choice(len(vectors), min(_SAMPLE, len(vectors)), replace=False))
        rows = vectors[sample]
        coder = Coder.fit(rows, rng)
        calibration = calibrate(vectors, coder, rng)
        rests = coder.rests(coder.turn(rows[:: len(rows) // 256][:256]))
        single = [calibration.plan(rest[None], vectors.shape, K) for rest in rests]
        if np.mean([plan.cost for plan in single]) > exact_cost(1, vectors.shape) / 2:
            return None
        return cls(coder, calibration)

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) -> codes (N, C) of 32 bits in Fortran order, so that a part of all rows lies
        together; `np.save` and `np.load` keep that.
        """
        return self.coder.encode(vectors)

    def arrays(self) -> dict[str, np.ndarray]:
        """What `from_arrays` needs to make this again."""
        calibration = self.calibration
        return {
            **self.coder.learned._asdict(),
            "depths": calibration.depths,
            "limits": calibration.limits,
            "shares": calibration.shares,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> FirstPass:
        """Raises KeyError when one is missing."""
        learned = Learned(*(arrays[name] for name in Learned._fields))
        calibration = Calibration(*(arrays[name] for name in ("depths", "limits", "shares")))
        return cls(Coder(learned, int(calibration.depths[-1])), calibration)

    def top(
        self,
        vectors: np.ndarray,
        codes: np.ndarray,
        queries: np.ndarray,
        k: int,
        allowed: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `exact_top`, of which nearly all rows are found. codes: `encode(vectors)`."""
        vectors, codes = np.asarray(vectors), np.asarray(codes)  # a memory map is slow to slice
        k = min(k, len(vectors))
        rows = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for start in range(0, len(queries), _QUERIES):
            part = slice(start, start + _QUERIES)
            self._top_of_some(vectors, codes, queries[part], allowed, rows[part], scores[part])
        return rows, scores

    def _top_of_some(
        self, vectors: np.ndarray, codes: np.ndarray, queries: np.ndarray,
        allowed: np.ndarray | None, rows: np.ndarray, scores: np.ndarray,
    ) -> None:  # fmt: skip
        k = rows.shape[1]
        turned = self.coder.turn(queries)
        plan = self.calibration.plan(self.coder.rests(turned), vectors.shape, k)
        first = plan.first
        if allowed is not None and 2 * first.max() > (count := np.count_nonzero(allowed)):
            first = np.where(2 * first > count, 0, first)
        exact, rough = np.flatnonzero(first == 0), np.flatnonzero(first)
        if len(exact):
            rows[exact], scores[exact] = exact_top(vectors, queries[exact], k, allowed)
        if not len(rough):
            return
        asked = self.coder.ask(turned[rough], plan.depth)
        found = self._candidates(codes, asked, first[rough], allowed)
        for number, (query, (candidates, guess)) in enumerate(zip(rough.tolist(), found)):
            better = self.coder.better(codes, candidates, guess, asked, number)
            candidates = candidates[_largest(better, plan.second[query])]
            score = row_scores(vectors, queries[query], candidates)
            rows[query], scores[query] = best_of_one(candidates, score, k)

    def _candidates(
        self, codes: np.ndarray, asked: Asked, wanted: np.ndarray, allowed: np.ndarray | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of every query its `wanted` (Q,) rows with the largest rough scores, or a few more.

        What a candidate must have rises with the best seen so far, so that few numbers are looked
        at twice and none of (Q, N) is kept.
        """
        size, width = _SCORES // len(wanted), int(wanted.max())
        seen = np.empty((len(wanted), 0), np.float32)
        floor = np.full(len(wanted), np.finfo(np.float32).min)
        hits = []
        for number, start in enumerate(range(0, len(codes), size)):
            rough = self.coder.rough(codes[start : start + size], asked)
            if allowed is not None:
                rough[:, ~allowed[start : start + size]] = -np.inf
            if number % _RECUT == 0:
                seen = np.concatenate([seen, _maxima(rough, 4 * width)], axis=1)
                if seen.shape[1] >= width:
                    seen = np.sort(np.partition(seen, -width, axis=1)[:, -width:], axis=1)
                    floor = np.maximum(floor, seen[np.arange(len(wanted)), width - wanted])
            flat = np.flatnonzero(rough >= floor[:, None])
            query, place = np.divmod(flat, rough.shape[1])
            hits.append((query.astype(np.uint16), place + start, rough.ravel()[flat]))
        query, row, score = (np.concatenate(column) for column in zip(*hits))
        order = np.argsort(query, kind="stable")
        ends = np.cumsum(np.bincount(query, minlength=len(wanted)))
        for members, count in zip(np.split(order, ends[:-1]), wanted):
            members = members[_largest(score[members], count)]
            yield row[members], score[members]


def _largest(scores: np.ndarray, count: int) -> np.ndarray | slice:
    """Where the `count` largest are, and those as large as the last."""
    if len(scores) <= count:
        return slice(None)
    return scores >= np.partition(scores, -count)[-count]


def _maxima(scores: np.ndarray, count: int) -> np.ndarray:
    """(Q, N) -> (Q, count) maxima of groups that share no number; all numbers when N is small."""
    size = scores.shape[1] // count
    if size < 2:
        return scores
    return scores[:, : size * count].reshape(len(scores), size, count).max(1)
