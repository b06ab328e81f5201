"""Which of many 64-bit hashes lie near each other, without comparing all with all.

Cut the 64 bits into m bands. Two hashes that differ in at most t bits differ in at most
floor(t / m) bits of some band (pigeonhole), so looking up every value of a band within that
radius finds every near pair: multi-index hashing (Norouzi, Punjani, Fleet, CVPR 2012). The number
of bands is the one with the least expected work.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

BITS = 64
MAX_DISTANCE = 16  # beyond it, different pictures are as near as copies
MAX_BANDS = 16
LOOKUP_COST = 40.0  # a look-up takes as long as comparing about so many pairs
BLOCK = 2048  # rows looked up at once
CHUNK = 1 << 20  # candidate pairs held at once

Agree = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (first, second) rows -> (n,) bool
_LOW = np.uint64(32)  # bits that hold the row in a sorted key
_ROW = np.uint64(0xFFFFFFFF)


class HashTable:
    """The near pairs of hashes (n,) uint64, within `distance` of 0 to MAX_DISTANCE bits.

    kept: (n,) bool, at first all true, for the caller to change between blocks: a row that is not
    kept is passed over as the first of a pair. In memory: 8 bytes a hash and band.
    """

    def __init__(self, hashes: np.ndarray, distance: int, agree: Agree | None = None) -> None:
        """agree: a further test that pairs must pass, such as one of colours."""
        if not 0 <= distance <= MAX_DISTANCE:
            raise ValueError(f"distance is {distance}, wanted 0 to {MAX_DISTANCE} of {BITS} bits")
        self.hashes = np.asarray(hashes, np.uint64)
        self.kept = np.ones(len(hashes), bool)
        self.distance = distance
        self.agree = agree
        self.bands = _cut(band_count(len(hashes), distance))
        self.radius = distance // len(self.bands)
        rows = np.arange(len(hashes), dtype=np.uint64)
        self._sorted = [np.sort(_value(self.hashes, band) << _LOW | rows) for band in self.bands]

    def pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(first, second) rows of all near pairs, first < second, each pair once.

        One yield for each block of BLOCK rows: all pairs whose second row is in the block.
        """
        gone = 0
        for start in range(0, len(self.hashes), BLOCK):
            rows = np.arange(start, min(start + BLOCK, len(self.hashes)))
            found = list(self._near(rows)) or [(rows[:0], rows[:0])]
            yield (
                np.concatenate([first for first, _ in found]),
                np.concatenate([second for _, second in found]),
            )
            gone += len(rows) - int(self.kept[rows].sum())
            if (
                gone >= BLOCK
            ):  # else a hundred thousand copies of one picture would be met each time
                self._sorted = [keys[self.kept[_rows(keys)]] for keys in self._sorted]
                gone = 0

    def _near(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number, band in enumerate(self.bands):
            values = _value(self.hashes[rows], band)
            order = np.argsort(values)  # neighbours are looked up one after the other: 3x faster
            rows, values = rows[order], values[order]
            for probe in _probes(band[1], self.radius):
                for first, second in self._candidates(number, rows, values ^ probe):
                    first, second = self._checked(number, first, second)
                    if len(first):
                        yield first, second

    def _candidates(
        self, number: int, rows: np.ndarray, values: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs (row whose band has the value, row of `rows` after it), in chunks."""
        keys, high = self._sorted[number], values << _LOW
        starts = np.searchsorted(keys, high)
        counts = np.searchsorted(keys, high | rows.astype(np.uint64)) - starts
        ends = np.cumsum(counts)
        cuts = np.searchsorted(ends, np.arange(CHUNK, ends[-1], CHUNK), side="right") + 1
        for part in np.split(np.arange(len(rows)), np.unique(cuts)):
            length = counts[part]
            offset = np.repeat(starts[part] - np.cumsum(length) + length, length)
            yield _rows(keys[offset + np.arange(len(offset))]), np.repeat(rows[part], length)

    def _checked(
        self, number: int, first: np.ndarray, second: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of candidates of a band: those that are near, kept, and found by no earlier band."""
        change = self.hashes[first] ^ self.hashes[second]
        right = (np.bitwise_count(change) <= self.distance) & self.kept[first]
        first, second, change = first[right], second[right], change[right]
        for band in self.bands[:number]:
            new = np.bitwise_count(_value(change, band)) > self.radius
            first, second, change = first[new], second[new], change[new]
        if self.agree is not None and len(first):
            right = self.agree(first, second)
            first, second = first[right], second[right]
        return first, second


def first_of_near(
    hashes: np.ndarray, distance: int, agree: Agree | None = None
) -> Iterator[tuple[int, int]]:
    """(row, first kept row that it is near to), for every row that is near to a kept one.

    Rows are judged in order, so that the first of near ones stays; what stays has no near pair.
    """
    table = HashTable(hashes, distance, agree)
    for first, second in table.pairs():
        yield from sorted(_greedy(first, second, table.kept).items())


def _greedy(first: np.ndarray, second: np.ndarray, kept: np.ndarray) -> dict[int, int]:
    """{row: the row that drops it}; changes `kept`.

    In rising order of `first`: when its turn comes, no row before it is left that could drop it.
    """
    order = np.argsort(first, kind="stable")
    first, second = first[order], second[order]
    leaders: dict[int, int] = {}
    for near in np.split(np.arange(len(first)), np.flatnonzero(np.diff(first)) + 1):
        if len(near) and kept[of := int(first[near[0]])]:
            rows = second[near][kept[second[near]]]
            kept[rows] = False
            leaders.update(dict.fromkeys(rows.tolist(), of))
    return leaders


def band_count(count: int, distance: int) -> int:
    """How many bands find all pairs within `distance` among `count` hashes with the least work."""

    def work(number: int) -> float:
        width = BITS // number
        probes = sum(math.comb(width, changed) for changed in range(distance // number + 1))
        return number * probes * (LOOKUP_COST + count / 2**width)

    return min(range(2, MAX_BANDS + 1), key=work)


def _cut(number: int) -> list[tuple[np.uint64, int]]:
    """(shift, width) of bands that cover all bits, the widths differing by at most one."""
    edges = [BITS * band // number for band in range(number + 1)]
    return [(np.uint64(low), high - low) for low, high in itertools.pairwise(edges)]


def _value(hashes: np.ndarray, band: tuple[np.uint64, int]) -> np.ndarray:
    shift, width = band
    return (hashes >> shift) & np.uint64((1 << width) - 1)


def _rows(keys: np.ndarray) -> np.ndarray:
    return (keys & _ROW).astype(np.int64)


def _probes(width: int, radius: int) -> Iterator[np.uint64]:
    """Every change of at most `radius` of `width` bits."""
    for changed in range(radius + 1):
        for bits in itertools.combinations(range(width), changed):
            yield np.uint64(sum(1 << bit for bit in bits))
