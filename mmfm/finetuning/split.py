"""Which pictures are only measured: decided by their content, near duplicates together."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from mmfm.data.filters.duplicates import NearDuplicates
from mmfm.finetuning.pictures import Pictures

LEAST_HELD_OUT = 4


@dataclass(frozen=True)
class Split:
    """Rows of a set. num_leaks: pictures that, alone, would have had a near copy on the other side.

    pairs: (kept, near copy) rows of near duplicates.
    """

    train: np.ndarray
    held_out: np.ndarray
    num_leaks: int
    pairs: list[tuple[int, int]]


def split(pictures: Pictures, share: float) -> Split:
    """About `share` of the pictures held out, at least 4, and never more than half.

    A picture's side is a function of its content alone, so it keeps it when others come or go;
    near duplicates all go where the one of the smallest hash goes.
    """
    near = NearDuplicates()
    rows = list(range(len(pictures)))
    near.see(rows, [near.measure(sample) for sample in pictures.samples])
    pairs = [(int(drop.of), row) for row, drop in near.judge_all(np.arange(len(rows)))
             if drop.of is not None]  # fmt: skip
    groups = _groups(len(pictures), pairs)
    draws = [_draw(key) for key in pictures.keys]
    alone = [draw < share for draw in draws]
    together = {group: min(draws[row] for row in members) for group, members in groups.items()}
    order = sorted(groups, key=lambda group: together[group])
    held: set[int] = set()
    # why a floor: of a few pictures chance may hold out none, and nothing could be measured
    for group in order:
        enough = len(held) >= min(LEAST_HELD_OUT, len(rows) // 2)
        if together[group] >= share and enough:
            break
        if len(held) + len(groups[group]) <= len(rows) // 2:
            held.update(groups[group])
    leaks = sum(
        len({alone[row] for row in members}) > 1 for members in groups.values()
    )  # fmt: skip
    return Split(
        np.array([row for row in rows if row not in held], np.int64),
        np.array(sorted(held), np.int64), leaks, pairs,
    )  # fmt: skip


def halves(keys: list[str], salt: str, most: int | None = None) -> tuple[list[int], list[int]]:
    """Rows cut in two by content, at random but the same every time; the second has `most` at most,
    and the first the rest.
    """
    order = sorted(range(len(keys)), key=lambda row: _draw(salt + keys[row]))
    half = len(order) - min(len(order) - len(order) // 2, most or len(order))
    return sorted(order[:half]), sorted(order[half:])


def _draw(key: str) -> float:
    return int(hashlib.sha256(key.encode()).hexdigest()[:13], 16) / 16**13


def _groups(count: int, pairs: list[tuple[int, int]]) -> dict[int, list[int]]:
    leader = list(range(count))
    for kept, copy in pairs:  # judged in order: the kept one never has a leader itself
        leader[copy] = kept
    groups: dict[int, list[int]] = {}
    for row, first in enumerate(leader):
        groups.setdefault(first, []).append(row)
    return groups
