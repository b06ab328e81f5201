"""Search in two passes: short codes of all rows name candidates, exact products order them.

What is promised: scores are those of `exact_top` to the bit, and so is the order of what is found.
How many candidates that takes is measured when the codes are made, on rows held out, on mixtures of
rows and on queries that lie elsewhere, as texts do in an index of pictures: so many that of the 10
best rows at most about 1 in 100 is missed for a query asked alone, 1 in 1000 for one of a batch,
where candidates cost less. A query less like the rows gets more of them, at last all rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from mmfm.index.calibration import Calibration, K, calibrate, exact_cost
from mmfm.index.coder import Asked, Coder, Learned
from mmfm.index.scan import best_of_one, exact_top, row_scores

MIN_ROWS = 20_000  # of 512 numbers, which all together are compared in 3 ms
_SAMPLE = 1 << 14
_QUERIES = 256  # at a time
_SCORES = 1 << 20  # of a block, all queries together
_TIE = np.float32(1e-5)  # equal vectors have scores that differ by rounding
_STRIDE = 16  # every so many rows tell what a candidate must have
_SPARE = 1.25  # and more are taken, because these are a sample


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
        coder = Coder(coder.learned, int(calibration.depths[-1]))
        rests = coder.rests(coder.turn(rows[:: len(rows) // 256][:256]))
        single = [calibration.plan(rest[None], vectors.shape, K) for rest in rests]
        if np.mean([plan.cost for plan in single]) > exact_cost(1, vectors.shape) / 2:
            return None
        return cls(coder, calibration)

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) -> codes (N, C) of 32 bits in Fortran order, so that a part of all rows lies
        together; `np.save` and `np.load` keep that. Codes of parts cannot be joined.
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
        wanted = plan.second if plan.signs_of_all else plan.first
        if allowed is not None and 2 * wanted.max() > (count := np.count_nonzero(allowed)):
            wanted = np.where(2 * wanted > count, 0, wanted)
        exact, rough = np.flatnonzero(wanted == 0), np.flatnonzero(wanted)
        if len(exact):
            rows[exact], scores[exact] = exact_top(vectors, queries[exact], k, allowed)
        if not len(rough):
            return
        asked = self.coder.ask(turned[rough], plan.depth)
        found = self._candidates(codes, asked, wanted[rough], plan.signs_of_all, allowed)
        for number, (query, (candidates, guess)) in enumerate(zip(rough.tolist(), found)):
            if not plan.signs_of_all and plan.second[query] < len(candidates):
                guess = self._better(codes, candidates, guess, asked, number)
                candidates = candidates[_largest(guess, plan.second[query])]
            if len(candidates) < k:
                rows[[query]], scores[[query]] = exact_top(vectors, queries[[query]], k, allowed)
                continue
            score = row_scores(vectors, queries[query], candidates)
            rows[query], scores[query] = best_of_one(candidates, score, k)

    def _better(
        self, codes: np.ndarray, rows: np.ndarray | slice, rough: np.ndarray, asked: Asked,
        query: int,
    ) -> np.ndarray:  # fmt: skip
        agreement = self.coder.agreement(codes, rows, asked, query)
        return self.coder.better(codes, rows, rough, agreement, asked, query)

    def _candidates(
        self, codes: np.ndarray, asked: Asked, wanted: np.ndarray, signs: bool,
        allowed: np.ndarray | None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:  # fmt: skip
        """Of every query its about `wanted` (Q,) rows with the largest scores, and these."""

        def scores(part: slice) -> np.ndarray:
            rough = self.coder.rough(codes[part], asked)
            for query, guess in enumerate(rough if signs else ()):
                rough[query] = self._better(codes, part, guess, asked, query)
            if allowed is not None:
                rough[:, ~allowed[part]] = -np.inf
            return rough

        size = _SCORES // len(wanted)
        blocks: Iterable[tuple[int, np.ndarray]]
        if len(codes) <= size:
            blocks = [(0, scores(slice(None)))]
            floor = _floor(_maxima(blocks[0][1], 4 * int(wanted.max())), wanted)
        else:
            floor = _floor(
                scores(slice(None, None, _STRIDE)), (_SPARE * wanted / _STRIDE).astype(np.int64) + 4
            )
            blocks = ((at, scores(slice(at, at + size))) for at in range(0, len(codes), size))
        hits = []
        for start, rough in blocks:
            flat = np.flatnonzero(rough >= floor)
            if len(wanted) == len(codes) // rough.shape[1] == 1:
                yield flat, rough[0][flat]
                return
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
    return scores >= np.partition(scores, -count)[-count] - _TIE


def _floor(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(Q, N) and (Q,) -> (Q, 1): what the largest so many have, and no -inf."""
    pairs = zip(scores, np.minimum(counts, scores.shape[1]))
    found = np.array([np.partition(few, -count)[-count] for few, count in pairs], np.float32)
    return np.maximum(found - _TIE, np.finfo(np.float32).min)[:, None]


def _maxima(scores: np.ndarray, count: int) -> np.ndarray:
    """(Q, N) -> (Q, count) maxima of groups that share no number; all numbers when N is small."""
    size = scores.shape[1] // count
    if size < 2:
        return scores
    return scores[:, : size * count].reshape(len(scores), size, count).max(1)
