"""The layout of a table beside its pictures: a row names a file and what is said of it."""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
from collections.abc import Collection, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from mmfm.data.bad import SampleError
from mmfm.data.layouts.columns import Columns
from mmfm.data.layouts.layout import Entry, Layout, key_of, read_file
from mmfm.data.layouts.named import Names
from mmfm.data.layouts.rows import Row, as_json, read_rows
from mmfm.data.layouts.words import captions_in, class_words
from mmfm.errors import DataError
from mmfm.preprocess.folder import list_images

_SCHEMA = """
CREATE TABLE pictures (name TEXT UNIQUE, line INTEGER, cause TEXT, why TEXT);
CREATE TABLE said (picture INTEGER, captions TEXT, meta TEXT);
CREATE INDEX of_picture ON said (picture);
"""
_RESERVED = ("captions", "path", "class", "width", "height")  # meta of ours; a column must not hide


class TableLayout(Layout):
    """Pictures named by the rows of a csv, tsv, jsonl, json or parquet file.

    Rows that name one picture are one sample with all their captions, wherever they stand; the
    other columns become meta, as a list where those rows differ. The rows are joined in a database
    of SQLite in a temporary file, so memory stays bounded.
    """

    kind = "table"

    def __init__(self, path: Path, columns: Columns, images: Path | None = None) -> None:
        """path: the table. images: the folder its names start from; default: the table's own."""
        super().__init__(path)
        self.path = path
        self.folder = images or path.parent
        self.columns = columns
        self.name = f"{path.name}, a table of pictures and captions"
        self.tells_unnamed = False  # whether the pictures that no row names are counted
        self.notes.append(f"{path.name}: {columns}")

    def count(self) -> int:
        return self._database.execute("SELECT count(*) FROM pictures").fetchone()[0]

    def _entries(self, places: Collection[int] | None) -> Iterator[Entry | SampleError]:
        rows = self._database.execute(
            "SELECT p.rowid - 1, p.name, p.line, p.cause, p.why, s.captions, s.meta FROM pictures p"
            " LEFT JOIN said s ON s.picture = p.rowid ORDER BY p.rowid, s.rowid"
        )
        for (place, *picture), group in itertools.groupby(rows, key=lambda row: row[:5]):
            if places is None or place in places:
                yield self._entry(picture, [row[5:] for row in group])

    def _entry(self, picture: list, said: list[tuple[str, str]]) -> Entry | SampleError:
        name, line, cause, why = picture
        if cause:
            return self.fault(name, cause, f"line {line} of {self.path} {why}")
        lists = [json.loads(captions) for captions, _ in said]
        captions = tuple(dict.fromkeys(itertools.chain.from_iterable(lists)))
        if self.columns.text and not captions:
            told = f"line {line} of {self.path} has no caption for {name}; write one or drop it"
            return self.fault(name, "no-caption", told)
        meta = _joined([json.loads(meta) for _, meta in said])
        read = partial(read_file, self.folder / name)
        return Entry(key_of(name), name, captions, {**meta, "path": name}, read)

    @cached_property
    def _database(self) -> sqlite3.Connection:
        """Pictures in the order in which the table first names them, and what each row says."""
        database = sqlite3.connect("", check_same_thread=False)  # "": private, on disk as it grows
        database.executescript(_SCHEMA)
        names = Names(self.folder, near=self.path.parent)
        repeated = 0
        for row in read_rows(self.path):
            name, cause, why = self._find(row, names)
            new = database.execute(
                "INSERT OR IGNORE INTO pictures VALUES (?, ?, ?, ?)", (name, row.line, cause, why)
            )
            picture = new.lastrowid
            if not new.rowcount:
                found = database.execute("SELECT rowid FROM pictures WHERE name = ?", (name,))
                picture = found.fetchone()[0]
            if not cause:
                repeated += self._say(database, picture, row.cells, is_new=bool(new.rowcount))
        self.notes += self._told(database, repeated, names.searched)
        return database

    def _told(self, database: sqlite3.Connection, repeated: int, searched: int) -> Iterator[str]:
        """What somebody should know who thinks that every row and every picture is used."""
        if repeated:
            yield f"{repeated} rows repeat a caption of the same picture: kept once"
        if searched:
            yield (
                f"{searched} rows name pictures that lie deeper below {self.folder} than they say:"
                " found by the end of the path"
            )
        if self.tells_unnamed and (unnamed := _count_unnamed(database, self.folder)):
            yield f"{unnamed} pictures below {self.folder} are named by no row: left out"

    def _find(self, row: Row, names: Names) -> tuple[str, str, str]:
        if row.wrong:
            return f"line {row.line}", "malformed", f"cannot be used: {row.wrong}"
        cell = row.cells.get(self.columns.file)
        name, cause, why = names.find("" if cell is None else str(cell))
        return name or f"line {row.line}", cause, why

    def _say(
        self, database: sqlite3.Connection, picture: int | None, cells: dict, is_new: bool
    ) -> bool:
        """Store what a row says; True when it only repeats a caption of its picture."""
        text = self.columns.text
        captions = captions_in(cells[text]) if text in cells else ()
        if self.columns.holds_labels:
            captions = tuple(class_words(caption) for caption in captions)
        said, meta = json.dumps(captions), json.dumps(self._meta(cells))
        known = "SELECT 1 FROM said WHERE picture = ? AND captions = ?"
        repeats = not is_new and database.execute(known, (picture, said)).fetchone() is not None
        database.execute("INSERT INTO said VALUES (?, ?, ?)", (picture, said, meta))
        return repeats

    def _meta(self, cells: dict[str, Any]) -> dict[str, Any]:
        """The other columns; one whose name is ours gets `column_` before it."""
        used = (self.columns.file, self.columns.text)
        return {
            f"column_{name}" if name in _RESERVED else name: as_json(value)
            for name, value in cells.items()
            if name not in used
        }


def _joined(metas: list[dict]) -> dict:
    """One meta for the rows of a picture: a value they share, or the list of theirs."""
    if len(metas) == 1:
        return metas[0]
    joined = {}
    for name in dict.fromkeys(itertools.chain.from_iterable(metas)):
        values = [meta.get(name) for meta in metas]
        joined[name] = values[0] if all(value == values[0] for value in values) else values
    return joined


def _count_unnamed(database: sqlite3.Connection, folder: Path) -> int:
    try:
        files = list_images(folder)
    except DataError:  # none at all
        return 0
    known = "SELECT 1 FROM pictures WHERE name = ? AND cause = ''"
    return sum(
        database.execute(
            known, (os.fsencode(file.relative_to(folder)).decode(errors="replace"),)
        ).fetchone()
        is None
        for file in files
    )
