"""Our engine: exact, memory-mapped, in one folder that can be copied; needs nothing but numpy.

A change appends a segment and marks rows of older ones as removed, then replaces one manifest, so
a kill at any moment leaves the state before or after it. Segments of like size are merged eight at
a time, which writes a row about log8(N / rows of one add) times. Readers hold the files they
opened and see the state of that moment.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np

from mmfm.errors import DataError, OutputError
from mmfm.index import manifest as manifests
from mmfm.index import segment_files
from mmfm.index.lock import only_writer
from mmfm.index.manifest import CURRENT, DRAFT, Manifest
from mmfm.index.protocol import Found, Metadata
from mmfm.index.rows import checked_ids, checked_k, checked_queries, checked_rows, found
from mmfm.index.segment import Segment, as_key, as_name
from mmfm.index.where import read_where

_FAN_IN = 8  # segments of like size that become one
_TIER_BITS = 3  # sizes within a factor of eight are alike
_TRIES = 8  # to open an index that a writer is changing


class Draft(NamedTuple):
    """What `FlatIndex.draft` gives. resumed: it goes on from an unfinished one. refused: why the
    index that is there is not built upon, None when it is or there is none.
    """

    engine: FlatIndex
    resumed: bool
    refused: str | None


class FlatIndex:
    """A `VectorIndex` that compares all rows; make one with `create` or `open`.

    From some ten thousand rows on a quantised first pass finds candidates, which are then compared
    exactly; `search(..., exact=True)` does without it. about: plain data that are kept with it.
    """

    def __init__(
        self, path: Path | None, manifest: Manifest, segments: Sequence[Segment] = (),
        name: str = CURRENT,
    ) -> None:  # fmt: skip
        self.path = path
        self.about = dict(manifest.about)
        self._manifest = manifest
        self._segments = list(segments)
        self._name = name

    # ------------------------------------------------------------------ making and opening

    @classmethod
    def create(
        cls, path: str | os.PathLike[str] | None = None, dim: int | None = None,
        about: dict[str, Any] | None = None,
    ) -> FlatIndex:  # fmt: skip
        """An empty index in a new or empty folder, or in memory when `path` is None.

        dim: None takes the length of the first vectors added. Raises OutputError when the folder
        holds something, an index included, or cannot be written.
        """
        if dim is not None and dim < 1:
            raise DataError(f"Got dim={dim}; wanted at least 1.")
        place = None if path is None else Path(os.path.realpath(path))
        index = cls(place, Manifest(dim, about or {}))
        if place is not None:
            if manifests.exists(place) or manifests.exists(place, DRAFT):
                raise OutputError(f"{place} holds an index already; open it or choose another.")
            manifests.check_room(place)
            with only_writer(place):
                index._commit([])
        return index

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> FlatIndex:
        """Map an index; rows and metadata are read as they are asked for.

        Raises DataError when there is none, it is damaged, or made by another version.
        """
        return cls._read(Path(os.path.realpath(path)), CURRENT)

    @classmethod
    def _read(cls, path: Path, name: str) -> FlatIndex:
        for _ in range(_TRIES):
            manifest = manifests.read(path, name)
            try:
                segments = [segment_files.read(path, files) for files in manifest.segments]
                return cls(path, manifest, segments, name)
            except FileNotFoundError as error:  # merged away since the manifest was read, or lost
                missing = error.filename
        raise DataError(f"The index {path} is damaged ({missing} is missing); build it again.")

    @classmethod
    def draft(
        cls, path: str | os.PathLike[str], refusal: Callable[[dict[str, Any]], str | None]
    ) -> Draft:
        """The next state of the index at `path`, which readers see only when it is published.

        Goes on from an unfinished draft, else from the index there, else from nothing; refusal:
        given the `about` of one, says why it must not be built upon. Every change is safe on disk
        and found by the next `draft`. The caller holds `only_writer(path)` to the end.
        """
        place = Path(os.path.realpath(path))
        base, refused, current = None, None, None
        if manifests.exists(place):
            try:
                current = cls._read(place, CURRENT)
                base, refused = current._manifest.commit, refusal(current.about)
            except DataError as error:
                refused = str(error)
        started = cls._started(place, base, refusal)
        index = started or (current if current is not None and refused is None else None)
        if index is None:
            index = cls(place, Manifest(None))
        index._name = DRAFT
        index._manifest = replace(index._manifest, base=base)
        index._commit(index._segments)
        return Draft(index, started is not None, refused)

    @classmethod
    def _started(
        cls, path: Path, base: str | None, refusal: Callable[[dict[str, Any]], str | None]
    ) -> FlatIndex | None:
        if not manifests.exists(path, DRAFT):
            return None
        try:
            draft = cls._read(path, DRAFT)
        except DataError:
            return None
        # why the base: the index may have been changed by other means since, which must not be lost
        usable = draft._manifest.base == base and refusal(draft.about) is None
        return draft if usable else None

    def publish(self) -> None:
        """Let a draft take the place of the index it was begun from. Raises OutputError."""
        merged = self._settled()
        self._name = CURRENT
        segments = [self._with_codes(part, self._segments) for part in merged]
        self._manifest = replace(self._manifest, base=None)
        self._commit(segments)
        assert self.path is not None
        (self.path / DRAFT).unlink(missing_ok=True)
        manifests.sweep(self.path)

    # ------------------------------------------------------------------ reading

    @property
    def dim(self) -> int:
        """Length of a vector; 0 as long as nobody said and nothing was added."""
        return self._manifest.dim or 0

    def __len__(self) -> int:
        return sum(map(len, self._segments))

    def ids(self) -> list[str]:
        """Of every row, sorted."""
        return sorted(chain.from_iterable(map(_names, self._segments)))

    def first_ids(self, count: int) -> list[str]:
        """The first of `ids()`, without reading the others."""
        firsts = (segment.alive[:count].tolist() for segment in self._segments)
        keys = [part.ids[row] for part, rows in zip(self._segments, firsts) for row in rows]
        return [as_name(key) for key in sorted(keys)[:count]]

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """(N, D) float32 in the order asked for. Raises DataError naming an unknown id."""
        rows = np.empty((len(ids), self.dim), np.float32)
        for segment, asked, places in self._located(ids):
            rows[asked] = segment.vectors[places]
        return rows

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """In the order asked for. Raises DataError naming an unknown id."""
        rows: list[dict[str, Any]] = [{} for _ in ids]
        for segment, asked, places in self._located(ids):
            for number, place in zip(asked.tolist(), places.tolist()):
                rows[number] = segment.columns.row(place)
        return rows

    def has(self, ids: Sequence[str]) -> np.ndarray:
        """(N,) bool: which of them there are."""
        there = np.zeros(len(ids), bool)
        keys = [as_key(name) for name in ids]
        for segment in self._segments:
            there |= segment.find(keys) >= 0
        return there

    def matrix(self) -> np.ndarray:
        """(N, D) float32 of every row, in the order of `ids()`; a memory map where it can be."""
        if len(self._segments) == 1 and self._segments[0].removed is None:
            return self._segments[0].vectors
        return self.vectors(self.ids())

    def ranks(self, ids: Sequence[str]) -> list[int]:
        """The places of ids in `ids()`, without reading the others."""
        return [sum(part.rank(key) for part in self._segments) for key in map(as_key, ids)]

    def search(
        self, queries: np.ndarray, k: int = 10, where: Any = None, *, exact: bool = False
    ) -> Found:
        """See VectorIndex. exact: compare every row, whatever the size."""
        conditions, k = read_where(where), checked_k(k)
        array = np.asarray(queries)
        units = checked_queries(array, self.dim or array.shape[-1])
        hits: list[list[tuple[str, float]]] = [[] for _ in units]
        for segment in self._segments:
            rows, scores = segment.top(units, k, conditions, exact)
            for pairs, of_row, of_score in zip(hits, rows, scores.tolist()):
                names = segment.ids.some(of_row[of_row >= 0])
                pairs += zip(map(as_name, names), of_score)
        return found(hits, min(k, len(self)))

    def _located(self, ids: Sequence[str]) -> Iterator[tuple[Segment, np.ndarray, np.ndarray]]:
        """Of each segment: which of the ids are there, and in which of its rows."""
        names = checked_ids(ids)
        keys, left = [as_key(name) for name in names], np.ones(len(names), bool)
        for segment in self._segments:
            places = segment.find(keys)
            asked = np.flatnonzero(places >= 0)
            left[asked] = False
            yield segment, asked, places[asked]
        if left.any():
            raise DataError(f"There is no row {names[int(np.argmax(left))]!r} in the index.")

    # ------------------------------------------------------------------ writing

    def add(
        self, ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[Metadata] | None = None
    ) -> None:
        """See VectorIndex. Raises OutputError when the folder cannot be written or another process
        writes to it.
        """
        array = np.asarray(vectors)
        if not len(ids) and not len(array):
            return
        with self._writing():
            dim = self.dim or (array.shape[1] if array.ndim == 2 else 0)
            fresh = Segment.of(checked_rows(ids, array, metadata, dim))
            keys = fresh.ids.tolist()
            kept = [segment.without(keys) for segment in self._segments]
            self._manifest = replace(self._manifest, dim=dim)
            self._commit([*kept, self._with_codes(fresh)])

    def remove(self, ids: Sequence[str]) -> int:
        """How many of them were there."""
        keys = [as_key(name) for name in checked_ids(ids)]
        with self._writing():
            before = len(self)
            kept = [segment.without(keys) for segment in self._segments]
            if any(new is not old for new, old in zip(kept, self._segments)):
                self._commit(kept)
            return before - len(self)

    def describe(self, about: dict[str, Any]) -> None:
        """Keep these data with the index instead of the former."""
        with self._writing():
            self.about = dict(about)
            self._commit(self._segments)

    def compact(self) -> None:
        """Make all rows one segment, so that searches are fastest and nothing removed is kept."""
        with self._writing():
            whole = len(self._segments) == 1 and self._segments[0].removed is None
            if self._segments and not whole:
                self._commit([self._merged(self._segments)])

    def close(self) -> None:
        """Let the files go."""
        self._segments = []

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The one writer, with the newest state before it."""
        if self.path is None or self._name == DRAFT:
            yield
            return
        with only_writer(self.path):
            now = manifests.read(self.path)
            if now.commit != self._manifest.commit:
                newest = FlatIndex.open(self.path)
                self._manifest, self._segments = newest._manifest, newest._segments
                self.about = newest.about
            yield

    def _commit(self, segments: Sequence[Segment]) -> None:
        """Make these the state of the index: nothing of it is changed when that fails."""
        kept = [segment for segment in segments if len(segment)]
        try:
            while crowd := _crowd(kept):
                kept = [part for part in kept if part not in crowd]
                kept.append(self._merged(crowd))
            if self.path is not None:
                kept = [segment_files.write(self.path, part) for part in kept]
            files = [part.files for part in kept]
            manifest = replace(self._manifest, segments=files, about=self.about, commit=uuid4().hex)
            if self.path is not None:
                manifests.write(self.path, manifest, self._name)
        except OSError as error:
            raise OutputError(f"Cannot write the index {self.path}: {error}.") from error
        self._manifest, self._segments = manifest, kept
        if self.path is not None:
            manifests.sweep(self.path)

    def _merged(self, parts: Sequence[Segment]) -> Segment:
        if self.path is None:
            return self._with_codes(Segment.merged(parts), parts)
        return self._with_codes(segment_files.merge(self.path, parts), parts)

    def _with_codes(self, segment: Segment, parts: Sequence[Segment] = ()) -> Segment:
        # why not in a draft: its segments are merged again before anybody searches them
        return segment if self._name == DRAFT else segment.with_codes(parts)

    def _settled(self) -> list[Segment]:
        """One large segment and at most one small: what costs little is merged for searches."""
        parts = sorted(self._segments, key=len, reverse=True)
        if not parts:
            return []
        rest = sum(len(part) for part in parts[1:])
        gone = parts[0].num_rows - len(parts[0])
        if 4 * (rest + gone) >= len(self) and (rest or gone):
            return [self._merged(parts)]
        return [parts[0], self._merged(parts[1:])] if len(parts) > 2 else parts


def _crowd(segments: Sequence[Segment]) -> list[Segment]:
    """Segments that should become one now: many of like size, or one that is mostly removed."""
    tiers = defaultdict(list)
    for segment in segments:
        if 2 * len(segment) < segment.num_rows:
            return [segment]
        tiers[len(segment).bit_length() // _TIER_BITS].append(segment)
    return next((tier for _, tier in sorted(tiers.items()) if len(tier) >= _FAN_IN), [])


def _names(segment: Segment) -> list[str]:
    keys = segment.ids.tolist()
    return [as_name(keys[row]) for row in segment.alive.tolist()]
