"""The layout of Hugging Face's parquet files, which hold the pictures themselves."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from mmfm.data.bad import SampleError
from mmfm.data.layouts.columns import find_columns
from mmfm.data.layouts.layout import Entry, Layout, key_of
from mmfm.data.layouts.rows import arrow_error, as_json, parquet_reader
from mmfm.data.layouts.words import captions_in, class_words
from mmfm.errors import DataError

_ROWS = 64  # held in memory at a time, each with its picture


class ParquetPictures(Layout):
    """Parquet files in which a column holds encoded pictures: bytes, or {bytes, path}."""

    kind = "parquet"
    name = "parquet with the pictures inside"
    lists_quickly = False

    def __init__(self, root: Path, files: Sequence[Path], column: str) -> None:
        """files: read in this order. column: the one with the pictures."""
        super().__init__(root)
        self.files = files
        self.column = column
        schema = parquet_reader().read_schema(files[0])
        names = [name for name in schema.names if name != column]
        self.columns = find_columns(["image", *names])  # the picture's own name does not matter
        text = self.columns.text if self.columns else None
        self._labels = _label_names(schema, text)
        said = f"captions from `{text}`" if text else "no captions"
        self.notes.append(f"{len(files)} parquet files: pictures from column `{column}`, {said}")

    @cached_property
    def _counts(self) -> list[int]:
        reader = parquet_reader()
        try:
            return [reader.read_metadata(file).num_rows for file in self.files]
        except (OSError, arrow_error()) as error:
            raise DataError(f"a parquet file of {self.root} cannot be read: {error}") from None

    def count(self) -> int:
        return sum(self._counts)

    def _entries(self, places: Collection[int] | None) -> Iterator[Entry | SampleError]:
        start = 0
        for file, count in zip(self.files, self._counts):
            inside = (
                None if places is None else {p - start for p in places if 0 <= p - start < count}
            )
            if inside is None or inside:
                yield from self._entries_of(file, inside)
            start += count

    def _entries_of(self, path: Path, rows: set[int] | None) -> Iterator[Entry | SampleError]:
        reader = parquet_reader()
        start = 0
        try:
            with reader.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    count = file.metadata.row_group(group).num_rows
                    if rows is None or any(start <= row < start + count for row in rows):
                        batches = file.iter_batches(batch_size=_ROWS, row_groups=[group])
                        cells = (cells for batch in batches for cells in batch.to_pylist())
                        for row, found in enumerate(cells, start):
                            if rows is None or row in rows:
                                yield self._entry(path, row, found)
                    start += count
        except (OSError, arrow_error()) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{path} cannot be read after row {start}: {reason}") from None

    def _entry(self, path: Path, row: int, cells: dict[str, Any]) -> Entry | SampleError:
        picture = cells.pop(self.column)
        inner = None
        if isinstance(picture, dict):
            inner, picture = picture.get("path"), picture.get("bytes")
        name = f"{path.name}/{row}"
        if not picture:
            told = f"row {row} of {path} holds no picture in column `{self.column}`; drop the row"
            return self.fault(name, "no-picture", told)
        captions: tuple[str, ...] = ()
        if self.columns and self.columns.text:
            captions = self._captions(cells.pop(self.columns.text))
            if not captions:
                return self.fault(name, "no-caption", f"row {row} of {path} has no caption")
        # why renamed: `captions` of the meta is where a shard keeps those of the sample
        meta = {
            "column_captions" if key == "captions" else key: as_json(value)
            for key, value in cells.items()
        }
        return Entry(
            key_of(name), name, captions, {**meta, "path": inner or name}, partial(bytes, picture)
        )

    def _captions(self, cell: Any) -> tuple[str, ...]:
        if isinstance(cell, int) and 0 <= cell < len(self._labels):
            cell = self._labels[cell]
        captions = captions_in(cell)
        is_label = self.columns is not None and self.columns.holds_labels
        return tuple(map(class_words, captions)) if is_label else captions


def _label_names(schema: Any, column: str | None) -> list[str]:
    """Names of the classes that a column counts, as `datasets` notes them in the schema."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[column]["names"]]
    except (TypeError, KeyError, ValueError):
        return []


def picture_column(path: Path) -> str | None:
    """The column of a parquet file that holds encoded pictures, or None."""
    reader = parquet_reader()
    try:
        schema = reader.read_schema(path)
    except (OSError, arrow_error()) as error:
        raise DataError(f"{path} cannot be read as parquet: {str(error).splitlines()[0]}") from None
    columns = find_columns(schema.names)
    named = ([columns.file] if columns else []) + list(schema.names)
    return next((name for name in named if _holds_bytes(schema.field(name).type)), None)


def _holds_bytes(kind: Any) -> bool:
    import pyarrow

    if pyarrow.types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        return "bytes" in names and _holds_bytes(kind.field("bytes").type)
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)
