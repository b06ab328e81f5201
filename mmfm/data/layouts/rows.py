"""Tables of captions as rows: csv and its kin, JSON lines, JSON (also COCO's), parquet.

Everything is read in UTF-8 and row by row, but a .json file, which has to be held whole.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from mmfm.data.layouts.words import not_utf8, parse_json, read_text
from mmfm.errors import DataError
from mmfm.preprocess.folder import IMAGE_SUFFIXES

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet")
_DELIMITERS = ("\t", ",", ";", "|")
MAX_DEPTH = 32
_UNNAMED = ("file_name", "text")  # of a csv whose first line is data already


@dataclass(frozen=True)
class Row:
    """One row: where it stands, 1 is the first line of the file; its cells by column.

    wrong: why it has no cells, or "".
    """

    line: int
    cells: dict[str, Any]
    wrong: str = ""


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a table, in order.

    Raises DataError, naming file and line, for what spoils the whole file: no UTF-8, no table.
    A single bad row is given with its `wrong`.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            yield from _parquet(path)
        elif suffix in (".jsonl", ".ndjson"):
            yield from _json_lines(path)
        elif suffix == ".json":
            yield from _json(path)
        else:
            yield from _csv(path)
    except UnicodeDecodeError:
        raise not_utf8(path) from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def columns_of(path: Path) -> list[str]:
    """Names of the columns: those of the first row. Raises DataError as `read_rows` does."""
    first = next((row for row in read_rows(path) if not row.wrong), None)
    return list(first.cells) if first else []


def _csv(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig", newline="") as stream:
        first = stream.readline()
        delimiter = _delimiter(first, path)
        stream.seek(0)
        lines = csv.reader(stream, delimiter=delimiter)
        try:
            yield from _cells(lines)
        except csv.Error as error:
            raise DataError(
                f"line {lines.line_num} of {path} cannot be read ({error}); mend its quotes"
            ) from None


def _cells(lines: Any) -> Iterator[Row]:
    header: list[str] = []
    start = 1
    for cells in lines:
        line, start = start, lines.line_num + 1
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        if not header:
            if not cells[0].partition("#")[0].lower().endswith(IMAGE_SUFFIXES):
                header = [name or f"column_{i}" for i, name in enumerate(cells)]
                continue
            header = [*_UNNAMED, *(f"column_{i}" for i in range(2, len(cells)))]
        if len(cells) > len(header):
            wrong = f"it has {len(cells)} cells for {len(header)} columns; put texts in quotes"
            yield Row(line, {}, wrong)
        else:
            yield Row(line, dict(zip(header, cells + [""] * (len(header) - len(cells)))))


def _delimiter(first: str, path: Path) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    counts = {mark: len(next(csv.reader([first], delimiter=mark), [])) for mark in _DELIMITERS}
    best = max(counts, key=lambda mark: counts[mark])
    return best if counts[best] > 1 else ","


def _json_lines(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig") as stream:
        for line, text in enumerate(stream, 1):
            if not text.strip():
                continue
            try:
                cells = parse_json(text)
            except ValueError as error:
                yield Row(line, {}, f"it is not JSON ({error})")
                continue
            if isinstance(cells, dict):
                yield Row(line, cells)
            else:
                yield Row(line, {}, "it is JSON but no object; wanted {...} on every line")


def _json(path: Path) -> Iterator[Row]:
    try:
        document = parse_json(read_text(path))
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if isinstance(document, dict) and {"images", "annotations"} <= document.keys():
        document = list(_coco(document, path))
    if not isinstance(document, list):
        raise DataError(f"{path} is no list of objects and no COCO captions; wanted one of these")
    for number, cells in enumerate(document, 1):
        if isinstance(cells, dict):
            yield Row(number, cells)
        else:
            yield Row(number, {}, "it is no object; wanted a list of {...}")


def _coco(document: dict, path: Path) -> Iterator[dict]:
    """COCO's captions: `images` with their `annotations`, joined by the number of the image."""
    captions: dict[Any, list[str]] = {}
    try:
        for note in document["annotations"]:
            captions.setdefault(note["image_id"], []).append(note["caption"])
        for image in document["images"]:
            yield {**image, "text": captions.get(image["id"], [])}
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path} looks like COCO but {error} is missing in it; wanted the captions file,"
            " with `caption` and `image_id` in its annotations"
        ) from None


def _parquet(path: Path) -> Iterator[Row]:
    line = 0
    try:
        with parquet_reader().ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for cells in batch.to_pylist():
                    line += 1
                    yield Row(line, cells)
    except arrow_error() as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read as parquet after row {line}: {reason}") from None


def parquet_reader() -> Any:
    """`pyarrow.parquet`. Raises DataError when it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError("reading .parquet needs pyarrow: pip install 'mmfm[data]'") from None
    return pyarrow.parquet


def arrow_error() -> type[Exception]:
    """What pyarrow raises for a damaged file."""
    import pyarrow

    return pyarrow.ArrowException


def as_json(value: Any, depth: int = 0) -> Any:
    """A cell as JSON can hold it: dates and other types as text, NaN as None."""
    if depth > MAX_DEPTH:
        return "(nested too deeply to be kept)"
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): as_json(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item, depth + 1) for item in value]
    return value.isoformat() if isinstance(value, date) else str(value)
