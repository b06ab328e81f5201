"""Where a build puts its rows: a folder of its own (in a draft until it is complete), memory, or
another engine, with the header in a small file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmfm.durable import replacing
from mmfm.errors import DataError, OutputError
from mmfm.index import manifest as manifests
from mmfm.index.build import Build, Options, Report
from mmfm.index.flat import FlatIndex
from mmfm.index.header import Header, folder_beside
from mmfm.index.lock import only_writer
from mmfm.index.protocol import VectorIndex
from mmfm.index.query import Embedder

_HEADER = "pictures.json"  # of an index whose rows are in another engine
_BLOCK = 4096  # rows copied at a time


class Making:
    """One build; `report` is filled."""

    def __init__(
        self, model: Embedder, folder: Path, place: Path | None, options: Options, report: Report
    ) -> None:
        self.model = model
        self.folder = folder
        self.place = place
        self.options = options
        self.report = report

    def in_folder(self) -> tuple[FlatIndex, Header]:
        """In our own engine, in memory where there is no place."""
        if self.place is None:
            engine = FlatIndex.create()
            header = self._run(engine, self._begun(None), lambda _: None)
            engine.compact()
            return engine, header
        manifests.check_room(self.place)  # first, so that a bad place costs no embedding
        with only_writer(self.place):
            draft, resumed, refused = FlatIndex.draft(self.place, self._refusal)
            self.report.rebuilt = refused
            old = Header.of_about(draft.about, self.place) if draft.about else None
            begun = self._begun(old)
            self.report.resumed = begun.num_new if resumed else 0

            def keep(header: Header) -> None:
                draft.about = header.as_about()  # on the disk with the chunk

            header = self._run(draft, begun, keep)
            keep(header)
            draft.publish()
        return draft, header

    def in_engine(self, engine: VectorIndex) -> tuple[VectorIndex, Header]:
        """In an engine that the caller gave. Raises DataError when its rows are of unknown make."""
        with nullcontext() if self.place is None else only_writer(self.place):
            old = self._old_header(engine)
            if old is not None and (reason := self._refusal(old.as_about())) is not None:
                self.report.rebuilt = reason
                engine.remove(engine.ids())  # the old header holds until all are gone
                old = None
            begun = self._begun(old)

            def keep(header: Header) -> None:
                if self.place is not None:
                    _write_header(self.place, header)

            keep(begun)
            header = self._run(engine, begun, lambda _: None)
            keep(header)
        return engine, header

    def _old_header(self, engine: VectorIndex) -> Header | None:
        if self.place is not None and (self.place / _HEADER).is_file():
            return read_header(self.place)
        if len(engine):
            raise DataError(
                f"The engine holds {len(engine)} rows that no header tells about; give the path "
                "that it was built with, or an empty engine."
            )
        if self.place is not None and (self.place.exists() and any(self.place.glob("[!l]*"))):
            raise OutputError(f"{self.place} exists and is not an index; give another place.")
        return None

    def _refusal(self, about: Mapping[str, Any]) -> str | None:
        """Why these rows must not be built upon."""
        if not about:
            return None
        try:
            header = Header.of_about(about, self.place)
        except DataError as error:
            return str(error)
        if header.backbone_hash != self.model.backbone_hash:
            return f"the index was made with another backbone ({header.model!r})"
        if dict(header.settings) != dict(self.options.settings):
            return f"the index was made with other settings ({dict(header.settings)})"
        return None

    def _begun(self, old: Header | None) -> Header:
        """The header while rows come in. In another folder, or by another version of mmfm, what is
        known of files that could be read or not is not relied on.
        """
        same = old is not None and old.folder == str(self.folder)
        fresh = Header(
            model=str(getattr(self.model, "name", "")),
            backbone_hash=self.model.backbone_hash,
            folder=str(self.folder),
            folder_beside=folder_beside(self.folder, self.place),
            settled=old is None or (same and old.settled),
            settings=dict(self.options.settings),
        )
        if old is None:
            return fresh
        unreadable = old.unreadable if same and old.mmfm == fresh.mmfm else ()
        return replace(fresh, num_new=old.num_new, unreadable=unreadable)

    def _run(self, engine: VectorIndex, begun: Header, keep: Any) -> Header:
        """The header when all is done."""
        build = Build(engine, self.model, self.folder, begun, self.options, self.report)
        done = begun.num_new

        def count(rows: int) -> None:
            nonlocal done
            done += rows
            keep(replace(begun, num_new=done))

        keep(begun)
        return replace(begun, unreadable=build.run(count), num_new=0, settled=True)


def read_header(place: Path) -> Header:
    """Of an index whose rows are in another engine. Raises DataError when there is none."""
    try:
        about = json.loads((place / _HEADER).read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{place} is not an index over another engine; build it first.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"The index {place} is damaged ({error}); build it again.") from error
    return Header.of_about(about, place)


def is_at(place: Path) -> bool:
    """Whether a build wrote here, in our own engine or with another."""
    names = (manifests.CURRENT, manifests.DRAFT, _HEADER)
    return any((place / name).is_file() for name in names)


def check_own_rows(place: Path) -> Path:
    """Raises DataError when the rows of an index are in another engine."""
    if (place / _HEADER).is_file():
        raise DataError(f"The rows of {place} are in another engine; open that and give engine=.")
    return place


def copy(engine: VectorIndex, header: Header, folder: Path, place: Path) -> None:
    """Write all rows as an index of our own at `place`, also over the one that they come from."""
    manifests.check_room(place)
    with only_writer(place):
        draft = FlatIndex.draft(place, lambda _: "it is replaced").engine
        every = engine.ids()
        for start in range(0, len(every), _BLOCK):
            ids = every[start : start + _BLOCK]
            draft.add(ids, engine.vectors(ids), engine.metadata(ids))
        moved = replace(header, folder=str(folder), folder_beside=folder_beside(folder, place))
        draft.about = moved.as_about()
        draft.publish()


def _write_header(place: Path, header: Header) -> None:
    try:
        with replacing(place / _HEADER) as file:
            file.write(json.dumps(header.as_about()).encode())
    except OSError as error:
        raise OutputError(f"Cannot write an index at {place}: {error.strerror}.") from error
