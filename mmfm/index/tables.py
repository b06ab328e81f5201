"""What a folder's own tables say of its pictures: captions.csv, metadata.jsonl and their like."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmfm.index.where import read_value

TABLES = ("captions.csv", "captions.jsonl", "metadata.csv", "metadata.jsonl")
FILE_COLUMNS = ("file_name", "filename", "file", "path", "image", "image_path")
OURS = ("path", "size", "width", "height", "folder", "mtime_ns", "sha256")  # what we say of a row


@dataclass
class Said:
    """rows: metadata by the path inside the folder; notes: sentences about what was not used."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_tables(folder: Path) -> Said:
    """All tables of `folder`; where two say different things of a picture, the later one counts.

    The first row of a picture counts. Values that are no text, number or truth value, and columns
    that have a name of ours, are left out. Nothing is raised: what cannot be used is noted.
    """
    said = Said()
    for name in TABLES:
        if (folder / name).is_file():
            try:
                _read(folder / name, said)
            except (OSError, ValueError, csv.Error) as error:
                said.notes.append(f"{folder / name} cannot be read: {error}")
    return said


def _read(path: Path, said: Said) -> None:
    found: dict[str, dict[str, Any]] = {}
    nameless = again = 0
    left_out: set[str] = set()
    for cells in _csv(path) if path.suffix == ".csv" else _json_lines(path):
        column = next((name for name in FILE_COLUMNS if name in cells), None)
        if column is None or not isinstance(cells[column], str) or not cells[column]:
            nameless += 1
            continue
        picture = _inside(cells.pop(column))
        again += picture in found
        kept = {name: value for name, value in cells.items() if _is_plain(name, value)}
        left_out.update(name for name in cells if name not in kept and cells[name] is not None)
        found.setdefault(picture, kept)
    for picture, kept in found.items():
        said.rows.setdefault(picture, {}).update(kept)
    if nameless:
        said.notes.append(
            f"{path}: {nameless} rows name no picture; wanted a column {', '.join(FILE_COLUMNS)}"
        )
    if again:
        said.notes.append(f"{path}: {again} rows name a picture again; the first row is kept")
    if left_out:
        said.notes.append(
            f"{path}: left out {', '.join(sorted(left_out))}; only plain values are kept, under "
            f"other names than {', '.join(OURS)}"
        )


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            yield {
                name.strip(): cell if name.strip() in FILE_COLUMNS else read_value(cell)
                for name, cell in row.items()
                if name and isinstance(cell, str) and cell.strip()
            }


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8-sig") as file:
        for line in file:
            if line.strip():
                cells = json.loads(line)
                yield dict(cells) if isinstance(cells, Mapping) else {}


def _is_plain(name: str, value: Any) -> bool:
    if isinstance(value, float) and value - value != 0:  # NaN, infinity
        return False
    return name not in OURS and isinstance(value, (str, int, float, bool))


def _inside(name: str) -> str:
    return name.strip().replace("\\", "/").removeprefix("./")
