"""What is done with the rows that an engine finds: near copies dropped, groups of near copies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from mmfm.errors import DataError
from mmfm.index.protocol import VectorIndex

_BATCH = 256  # queries at a time
_FIRST_LOOK = 8  # neighbours asked for before more are
_ROUNDING = 1e-6  # of a float32 cosine


def checked_threshold(threshold: float) -> float:
    """A cosine above which two pictures are the same thing. Raises DataError outside (0, 1]."""
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
        raise DataError(f"Got the threshold {threshold!r}; wanted a cosine such as 0.95.")
    if not 0 < threshold <= 1:
        raise DataError(f"Got the threshold {threshold}; wanted a cosine above 0 and up to 1.")
    return float(threshold)


def distinct(engine: VectorIndex, ids: Sequence[str], threshold: float, k: int) -> list[int]:
    """Places of the first k ids whose vector is not nearer than `threshold` to a kept one."""
    if not ids:
        return []
    vectors = engine.vectors(ids)
    kept: list[int] = []
    for place, vector in enumerate(vectors):
        if len(kept) == k:
            break
        if not kept or float((vectors[kept] @ vector).max()) < threshold - _ROUNDING:
            kept.append(place)
    return kept


def near_groups(engine: VectorIndex, threshold: float, options: dict[str, Any]) -> list[list[str]]:
    """Groups of ids that hang together by pairs of at least this cosine, the largest first.

    Every row is asked for its neighbours, more and more of them until one is too far, so the work
    is that of N searches. options: of `engine.search`.
    """
    every = engine.ids()
    above = {name: name for name in every}

    def root(name: str) -> str:
        while above[name] != name:
            above[name] = name = above[above[name]]
        return name

    for start in range(0, len(every), _BATCH):
        names, k = every[start : start + _BATCH], _FIRST_LOOK
        while names:
            ids, scores = engine.search(engine.vectors(names), k, **options)
            again = []
            for name, found, row in zip(names, ids, scores):
                near = [one for one, score in zip(found, row) if score >= threshold - _ROUNDING]
                for one in near:
                    low, high = sorted((root(name), root(one)))
                    above[high] = low
                if len(near) == k < len(every):
                    again.append(name)
            names, k = again, 4 * k
    groups: dict[str, list[str]] = defaultdict(list)
    for name in every:
        groups[root(name)].append(name)
    several = [group for group in groups.values() if len(group) > 1]
    return sorted(several, key=lambda group: (-len(group), group))
