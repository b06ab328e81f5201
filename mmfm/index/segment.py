"""A part of a FlatIndex: rows that came together, sorted by id, and never change but by removal."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from mmfm.index.blobs import Blobs
from mmfm.index.columns import Columns
from mmfm.index.first_pass import FirstPass, available
from mmfm.index.rows import Rows
from mmfm.index.scan import exact_top
from mmfm.index.where import Condition

_MASKS = 16  # filters remembered of a segment
_SHARE = 4  # rows of an index for each that its first pass was made for
_GATHERED = 1 << 14  # rows copied at a time


@dataclass(frozen=True, eq=False)
class Segment:
    """N rows. removed: (N,) bool, or None when all are alive. files: their names and bytes on disk,
    none for a segment that lives in memory only.
    """

    vectors: np.ndarray
    ids: Blobs
    columns: Columns
    removed: np.ndarray | None = None
    first: FirstPass | None = None
    files: dict[str, int] = field(default_factory=dict)
    _masks: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Rows) -> Segment:
        """New rows, in any order."""
        keys = [as_key(name) for name in rows.ids]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        vectors = rows.vectors
        if order != list(range(len(keys))):
            vectors = vectors[order]
        return cls(
            vectors,
            Blobs.of(keys[row] for row in order),
            Columns.of([rows.metadata[row] for row in order]),
        )

    @classmethod
    def merged(cls, parts: Sequence[Segment], vectors: np.ndarray | None = None) -> Segment:
        """The living rows of several; vectors: where to put them (N, D), by default in memory."""
        alive = [part.alive for part in parts]
        keys = [part.ids[row] for part, rows in zip(parts, alive) for row in rows.tolist()]
        order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
        if vectors is None:
            vectors = np.empty((len(keys), parts[0].vectors.shape[1]), np.float32)
        which = np.repeat(np.arange(len(parts)), [len(rows) for rows in alive])[order]
        place = np.concatenate(alive)[order]
        for start in range(0, len(keys), _GATHERED):
            block = slice(start, start + _GATHERED)
            for number, part in enumerate(parts):
                inside = which[block] == number
                vectors[block][inside] = part.vectors[place[block][inside]]
        columns = Columns.join([(p.columns, rows) for p, rows in zip(parts, alive)], order)
        return cls(vectors, Blobs.of(keys[row] for row in order), columns)

    def __len__(self) -> int:
        """Of rows that are alive."""
        return self.num_rows - (0 if self.removed is None else int(np.count_nonzero(self.removed)))

    @property
    def num_rows(self) -> int:
        return len(self.vectors)

    @property
    def alive(self) -> np.ndarray:
        """Numbers of the rows that are not removed."""
        if self.removed is None:
            return np.arange(self.num_rows)
        return np.flatnonzero(~self.removed)

    def find(self, keys: Sequence[bytes]) -> np.ndarray:
        """(M,) the row of every id, -1 where it is not here or removed."""
        if 8 * len(keys) > self.num_rows:
            places = self._places
            rows = np.fromiter((places.get(key, -1) for key in keys), np.int64, len(keys))
        else:
            rows = np.fromiter((self._bisect(key) for key in keys), np.int64, len(keys))
        if self.removed is not None and len(rows):
            rows[(rows >= 0) & self.removed[rows]] = -1
        return rows

    @property
    def _places(self) -> dict[bytes, int]:
        return {key: row for row, key in enumerate(self.ids.tolist())}

    def _bisect(self, key: bytes) -> int:
        row = bisect_left(self.ids, key)
        return row if row < self.num_rows and self.ids[row] == key else -1

    def rank(self, key: bytes) -> int:
        """How many living rows have a smaller id."""
        row = bisect_left(self.ids, key)
        return row if self.removed is None else row - int(np.count_nonzero(self.removed[:row]))

    def without(self, keys: Sequence[bytes]) -> Segment:
        """The same with these rows removed; itself when it has none of them."""
        rows = self.find(keys)
        rows = rows[rows >= 0]
        if not len(rows):
            return self
        removed = np.zeros(self.num_rows, bool) if self.removed is None else self.removed.copy()
        removed[rows] = True
        files = {name: size for name, size in self.files.items() if ".removed." not in name}
        return replace(self, removed=removed, files=files, _masks={})

    def top(
        self, queries: np.ndarray, k: int, conditions: Sequence[Condition], exact: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `exact_top`, of living rows that fit."""
        allowed = self._allowed(conditions)
        if self.first is None or exact or not available():
            return exact_top(self.vectors, queries, k, allowed)
        return self.first.top(self.vectors, queries, k, allowed)

    def _allowed(self, conditions: Sequence[Condition]) -> np.ndarray | None:
        if not conditions:
            return self._living
        key = repr(conditions)
        if key not in self._masks:
            fits = np.ones(self.num_rows, bool) if self._living is None else self._living.copy()
            for condition in conditions:
                fits &= self.columns.holds(condition)
            if len(self._masks) >= _MASKS:
                self._masks.clear()
            self._masks[key] = fits
        return self._masks[key]

    @cached_property
    def _living(self) -> np.ndarray | None:
        return None if self.removed is None else ~self.removed

    def with_codes(self, parts: Sequence[Segment] = ()) -> Segment:
        """The same with a first pass, where it pays; one of `parts`, which these rows come from, is
        taken over if it was made for a good share of them: making one takes long.
        """
        if self.first is not None or not available():
            return self
        made = [part for part in parts if part.first and _SHARE * part.num_rows >= self.num_rows]
        largest = max(made, key=lambda part: part.num_rows, default=None)
        if largest is not None and largest.first is not None:
            return replace(self, first=largest.first.of(self.vectors))
        return replace(self, first=FirstPass.fit(self.vectors))


def as_key(name: str) -> bytes:
    """An id as it is kept; ids sort as their keys do, names of files that are no UTF-8 included."""
    return name.encode("utf-8", "surrogatepass")


def as_name(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")
