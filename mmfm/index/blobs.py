"""Many byte strings in one block, any of which is read from a memory map without the others.

count (int64), count + 1 starts (int64), then all bytes one after the other; little-endian
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

_WORD = 8


class Blobs(Sequence[bytes]):
    """The strings of a block that `pack` made: bytes, a memory map, or a part of one.

    Raises ValueError when the block is no such thing or is cut short.
    """

    def __init__(self, block: Any) -> None:
        self.block = memoryview(block)
        count = int.from_bytes(self.block[:_WORD], "little")
        self._origin = _WORD * (count + 2)
        if not len(self.block) >= self._origin >= 2 * _WORD:
            raise ValueError("a block of strings is cut short")
        self._starts = np.frombuffer(self.block, "<i8", count + 1, _WORD)
        if self._origin + int(self._starts[-1]) != len(self.block):
            raise ValueError("a block of strings is cut short")

    @classmethod
    def of(cls, items: Iterable[bytes]) -> Blobs:
        return cls(pack(items))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, place: Any) -> Any:
        return bytes(self.part(place))

    def part(self, place: int) -> memoryview:
        """One string, not copied."""
        if not 0 <= place < len(self):
            raise IndexError(place)  # which ends a loop
        start, end = self._starts[place : place + 2].tolist()
        return self.block[self._origin + start : self._origin + end]

    def some(self, places: np.ndarray) -> list[bytes]:
        starts, origin = self._starts, self._origin
        ends = zip(starts.take(places).tolist(), starts[1:].take(places).tolist())
        return [bytes(self.block[origin + start : origin + end]) for start, end in ends]

    def tolist(self) -> list[bytes]:
        whole, starts = bytes(self.block[self._origin :]), self._starts.tolist()
        return [whole[start:end] for start, end in pairwise(starts)]


def pack(items: Iterable[bytes]) -> bytes:
    """Any number of byte strings -> one block."""
    items = list(items)
    starts = np.zeros(len(items) + 1, "<i8")
    np.cumsum([len(item) for item in items], out=starts[1:])
    return b"".join((len(items).to_bytes(_WORD, "little"), starts.tobytes(), *items))
