"""A folder of pictures and a vector engine -> the engine brought up to date, chunk by chunk.

Only what is new or changed is embedded: a file is the same when its size and time are, or else
when its sha256 is; equal bytes (copies, renamed files) are embedded once. A chunk is safe in the
engine before the next begins and nothing else is held, so memory stays flat and a killed build
loses one chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmfm.errors import DataError, ImageError
from mmfm.index.entries import Entry
from mmfm.index.header import Header, Unreadable
from mmfm.index.protocol import VectorIndex
from mmfm.index.query import Embedder
from mmfm.index.tables import read_tables
from mmfm.preprocess.folder import list_images

# vectors (D,) of those pictures that are known, of the ones asked for, by the sha256 of their bytes
Known = Callable[[list[str]], Mapping[str, np.ndarray]]
CHUNK = 256  # rows written at once


@dataclass
class Report:
    """What a build did, in pictures; `skipped` has (path, reason) of each unreadable one."""

    added: int = 0
    changed: int = 0
    kept: int = 0
    removed: int = 0
    reused: int = 0  # pictures whose vector came from a store instead of the model
    resumed: int = 0  # pictures that an earlier, interrupted build had embedded
    skipped: list[tuple[str, str]] = field(default_factory=list)
    rebuilt: str | None = None  # why an older index was not used, if so
    notes: list[str] = field(default_factory=list)  # what the folder's tables say in vain

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a build is done; see `Index.build`."""

    batch_size: int | None = None
    on_error: str = "skip"
    progress: bool = False
    known: Known | None = None
    metadata: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


class _Change(NamedTuple):
    """A picture to write. stored: its metadata in the engine so far, None for a new one."""

    entry: Entry
    stored: Mapping[str, Any] | None

    @property
    def is_new(self) -> bool:
        return self.stored is None

    @property
    def has_vector(self) -> bool:
        return self.stored is not None and self.stored["sha256"] == self.entry.sha256


class Build:
    """One run over `folder` that fills `report`. header: what is known of the engine's rows."""

    def __init__(
        self, engine: VectorIndex, model: Embedder, folder: Path, header: Header, options: Options,
        report: Report,
    ) -> None:  # fmt: skip
        self.engine = engine
        self.model = model
        self.folder = folder
        self.options = options
        self.report = report
        self._trusted = header.settled
        self._unreadable: dict[str, Unreadable] = {}
        self._were_bad = {one.path: one for one in header.unreadable}
        self._bad: dict[str, str] = {}  # reason by sha256

    def run(self, before_chunk: Callable[[int], None]) -> tuple[Unreadable, ...]:
        """Returns what could not be read. before_chunk: told how many pictures of each are new.

        Raises DataError when no picture is readable or the metadata name none, ImageError at the
        first bad picture if on_error is "raise".
        """
        paths = [file.relative_to(self.folder).as_posix() for file in list_images(self.folder)]
        self._said = self._read_said(paths)
        self._gone = set(self.engine.ids()) - set(paths)
        with _bar(len(paths), self.options.progress) as bar:
            changes = self._changes(paths, bar)
            while chunk := list(islice(changes, CHUNK)):
                before_chunk(sum(not change.has_vector for change in chunk))
                self._write(chunk, bar)
        self.report.skipped += sorted((one.path, one.reason) for one in self._unreadable.values())
        if len(self._unreadable) == len(paths):
            path, reason = self.report.skipped[0]
            raise DataError(
                f"None of the {len(paths)} pictures in {self.folder} can be read; "
                f"the first, {path}: {reason}"
            )
        self.report.removed = self.engine.remove(sorted(self._gone)) if self._gone else 0
        return tuple(self._unreadable[path] for path in sorted(self._unreadable))

    # ------------------------------------------------------------------ what changed

    def _read_said(self, paths: Sequence[str]) -> dict[str, dict[str, Any]]:
        said = read_tables(self.folder)
        self.report.notes += said.notes
        listed = set(paths)
        for path, row in self.options.metadata.items():
            if path not in listed:
                raise DataError(
                    f"The metadata name {path!r}, which is no picture in {self.folder}."
                )
            said.rows.setdefault(path, {}).update(row)
        return said.rows

    def _changes(self, paths: Sequence[str], bar: Any) -> Iterator[_Change]:
        there = set(self.engine.ids())
        for start in range(0, len(paths), CHUNK):
            window = paths[start : start + CHUNK]
            old = [path for path in window if path in there]
            stored = dict(zip(old, self.engine.metadata(old))) if old else {}
            for path in window:
                change = self._look(path, stored.get(path))
                if change is not None:
                    yield change
                else:
                    bar.update()

    def _look(self, path: str, stored: Mapping[str, Any] | None) -> _Change | None:
        """What is to be done for a picture; None when nothing is."""
        was_bad = self._were_bad.get(path)
        known = None
        if self._trusted and stored is not None:
            known = Entry.of_metadata(stored)
        elif self._trusted and was_bad is not None:
            known = Entry(path, was_bad.size, was_bad.mtime_ns, "")
        try:
            entry = Entry.of_file(self.folder, path, known)
        except OSError as error:
            reason = f"Cannot read {self.folder / path}: {error.strerror}."
            if self.options.on_error == "raise":
                raise ImageError(reason) from error
            self._skip(Unreadable(path=path, reason=reason, size=-1, mtime_ns=0))
            return None
        if entry is known and stored is None and was_bad is not None:
            if self.options.on_error == "raise":
                raise ImageError(was_bad.reason)
            self._skip(was_bad)
            return None
        change = _Change(entry, stored)
        if change.has_vector and self._metadata(change) == stored:
            self.report.kept += 1
            return None
        return change

    def _metadata(self, change: _Change) -> dict[str, Any]:
        path = self.folder / change.entry.path
        if change.has_vector and change.stored is not None:
            size = {name: change.stored[name] for name in ("width", "height")
                    if name in change.stored}  # fmt: skip
        else:
            from mmfm.index.pictures import size_of

            size = size_of(path)
        inside = Path(change.entry.path).parent.as_posix()
        said = self._said.get(change.entry.path, {})
        return {**said, **change.entry.as_metadata(), **size, "folder": inside}

    # ------------------------------------------------------------------ writing

    def _write(self, chunk: Sequence[_Change], bar: Any) -> None:
        vectors = self._vectors(chunk, bar)
        rows = []
        for change in chunk:
            if change.entry.sha256 in vectors:
                rows.append(change)
                self._count(change)
            else:
                self._skip(Unreadable.of(change.entry, self._bad[change.entry.sha256]))
        if rows:
            self.engine.add(
                [change.entry.path for change in rows],
                np.stack([vectors[change.entry.sha256] for change in rows]),
                [self._metadata(change) for change in rows],
            )
        for change in rows:
            self._by_sha256[change.entry.sha256] = change.entry.path

    def _vectors(self, chunk: Sequence[_Change], bar: Any) -> dict[str, np.ndarray]:
        """By sha256, of all pictures of the chunk that can be read; the others are in `_bad`."""
        found = self._stored([c.entry.path for c in chunk if c.has_vector])
        wanted = {c.entry.sha256: c.entry.path for c in chunk if c.entry.sha256 not in found}
        found.update(self._copies(wanted))
        left = [sha256 for sha256 in wanted if sha256 not in found and sha256 not in self._bad]
        if self.options.known is not None and left:
            known = self.options.known(left)
            found.update(known)
            self.report.reused += sum(change.entry.sha256 in known for change in chunk)
            left = [sha256 for sha256 in left if sha256 not in known]
        bar.update(len(chunk) - len(left))
        self._embed({sha256: wanted[sha256] for sha256 in left}, found, bar)
        return found

    def _embed(self, fresh: Mapping[str, str], found: dict[str, np.ndarray], bar: Any) -> None:
        """The model's vectors of pictures (paths by sha256) into `found`."""
        if not fresh:
            return
        from mmfm.index.pictures import vectors_of

        files = [self.folder / path for path in fresh.values()]
        settings = self.options.settings
        vectors = vectors_of(self.model, files, self.options.batch_size, settings)
        for sha256, vector in zip(fresh, vectors, strict=True):
            if not isinstance(vector, ImageError):
                found[sha256] = vector
            elif self.options.on_error == "raise":
                raise vector
            else:
                self._bad[sha256] = str(vector)
            bar.update()

    def _stored(self, paths: Sequence[str]) -> dict[str, np.ndarray]:
        """Vectors of rows that the engine has, by the sha256 of their pictures."""
        if not paths:
            return {}
        shas = [metadata["sha256"] for metadata in self.engine.metadata(paths)]
        return dict(zip(shas, self.engine.vectors(paths)))

    def _copies(self, wanted: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Vectors of those whose bytes another row has."""
        same = [self._by_sha256[sha256] for sha256 in wanted if sha256 in self._by_sha256]
        found = self._stored(same)
        # why: a row may have been replaced in this run, and its vector with it
        return {sha256: vector for sha256, vector in found.items() if sha256 in wanted}

    @cached_property
    def _by_sha256(self) -> dict[str, str]:
        """A row with each picture that the engine holds, removed files included."""
        found, every = {}, self.engine.ids()
        for start in range(0, len(every), CHUNK):
            for row in self.engine.metadata(every[start : start + CHUNK]):
                found[row["sha256"]] = row["path"]
        return found

    def _skip(self, one: Unreadable) -> None:
        self._unreadable[one.path] = one
        self._gone.add(one.path)

    def _count(self, change: _Change) -> None:
        if change.is_new:
            self.report.added += 1
        elif change.has_vector:
            self.report.kept += 1
        else:
            self.report.changed += 1


def _bar(total: int, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="indexing", unit="picture", disable=not progress)
