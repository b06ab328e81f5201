"""Rows in a LanceDB table: a folder or an object store, opened without a server, read in part.

    id string    vector fixed_size_list<float>[D]    metadata string    m_NAME string, one a name

`metadata` is JSON exactly as given. LanceDB filters on columns of one type only, so every name of
the metadata is also a column of texts that sort as the values do (`_sortable`); a condition becomes
a range of such texts, which LanceDB applies before it compares vectors.
"""

from __future__ import annotations

import json
import re
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from mmfm.durable import sync
from mmfm.errors import DataError
from mmfm.index.protocol import Found, Metadata
from mmfm.index.rows import (
    checked_ids,
    checked_k,
    checked_queries,
    checked_rows,
    found,
    in_order,
    library,
    storable,
)
from mmfm.index.where import Condition, read_where

_FIRST = ("id", "vector", "metadata")
_MORE = 16  # rows asked for beyond k, to see whether the last score has equals
_EQUAL = 1e-6
_QUERIES = 256  # at a time
_IDS = 5_000  # in one SQL list


class LanceIndex:
    """One table; make one with `create` or `open`. Every change is one new version of it.

    nprobes: None searches exactly; a number lets searches use the index of `create_ann_index`,
    looking into that many of its parts (into more where a filter leaves too few rows).
    """

    def __init__(self, table: Any, folder: Path | None, nprobes: int | None) -> None:
        self._table = table
        self._folder = folder
        self._dim: int = table.schema.field("vector").type.list_size
        self.nprobes = nprobes

    @classmethod
    def create(
        cls,
        uri: str,
        dim: int,
        table: str = "mmfm",
        *,
        nprobes: int | None = None,
        storage_options: Mapping[str, str] | None = None,
    ) -> LanceIndex:
        """uri: a folder, or s3://, gs://, az:// with `storage_options` as LanceDB has them.

        Raises DataError when it cannot be reached or holds such a table.
        """
        arrow = library("pyarrow", "lance")
        columns = (arrow.string(), arrow.list_(arrow.float32(), int(dim)), arrow.string())
        base = _connect(uri, storage_options)
        try:
            made = base.create_table(table, schema=arrow.schema(list(zip(_FIRST, columns))))
        except (ValueError, OSError, RuntimeError) as error:
            raise DataError(f"No table {table!r} can be made in {uri}: {_first(error)}.") from None
        return cls(made, _local(uri), nprobes)

    @classmethod
    def open(
        cls,
        uri: str,
        table: str = "mmfm",
        *,
        nprobes: int | None = None,
        storage_options: Mapping[str, str] | None = None,
    ) -> LanceIndex:
        """Raises DataError when it cannot be reached or has no such table of ours."""
        folder = _local(uri)
        if folder is not None and not folder.is_dir():
            raise DataError(f"There is no LanceDB folder {uri}; make it with create.")
        try:
            there = _connect(uri, storage_options).open_table(table)
        except (ValueError, OSError, RuntimeError) as error:
            raise DataError(f"No table {table!r} can be read in {uri}: {_first(error)}.") from None
        if tuple(there.schema.names[: len(_FIRST)]) != _FIRST:
            raise DataError(f"The table {table!r} in {uri} is no index of ours; name another one.")
        return cls(there, folder, nprobes)

    @property
    def dim(self) -> int:
        return self._dim

    def __len__(self) -> int:
        return self._table.count_rows()

    def ids(self) -> list[str]:
        everything = self._table.search().limit(None).select(["id"]).to_arrow()
        return sorted(everything["id"].to_pylist())

    def add(
        self, ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[Metadata] | None = None
    ) -> None:
        rows = checked_rows(ids, vectors, metadata, self._dim)
        if not rows.ids:
            return
        keys = [
            {_column(name): _sortable(_held(value)) for name, value in one.items()}
            for one in rows.metadata
        ]
        for name in rows.ids:
            storable(name, "LanceDB")
        started = time.time_ns()
        schema = self._schema_with(dict.fromkeys(name for one in keys for name in one))
        columns = {
            "id": rows.ids,
            "vector": _lists(rows.vectors, schema.field("vector").type),
            "metadata": [json.dumps(one) for one in rows.metadata],
        }
        columns |= {name: [one.get(name) for one in keys] for name in schema.names[len(_FIRST) :]}
        fresh = library("pyarrow", "lance").table(columns, schema=schema)
        merge = self._table.merge_insert("id").when_matched_update_all()
        merge.when_not_matched_insert_all().execute(fresh)
        self._flush(started)

    def remove(self, ids: Sequence[str]) -> int:
        started, before = time.time_ns(), len(self)
        for test in _among(set(checked_ids(ids))):
            self._table.delete(test)
        self._flush(started)
        return before - len(self)

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        rows = in_order(ids, self._by_id("vector", ids))
        return np.array(rows, np.float32).reshape(-1, self._dim)

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        return [json.loads(text) for text in in_order(ids, self._by_id("metadata", ids))]

    def search(self, queries: np.ndarray, k: int = 10, where: Any = None) -> Found:
        units, columns = checked_queries(queries, self._dim), min(checked_k(k), len(self))
        test = self._as_sql(read_where(where))
        if columns == 0:
            return found([()] * len(units), 0)
        hits: list[Iterable[tuple[str, float]]] = []
        for start in range(0, len(units), _QUERIES):
            hits += self._nearest(units[start : start + _QUERIES], columns, test)
        return found(hits, columns)

    def close(self) -> None:
        """Nothing is held open; every change was kept when it was made."""

    def create_ann_index(
        self, num_partitions: int | None = None, num_sub_vectors: int | None = None
    ) -> None:
        """An IVF-PQ index of the vectors (Jégou et al., 2011); hits are scored exactly anew.

        None lets LanceDB choose. Rows added later are compared one by one until `compact`.
        Searches use it once `nprobes` is set. Raises DataError when LanceDB cannot, as of no rows.
        """
        config = library("lancedb.index", "lance").IvfPq(
            distance_type="cosine", num_partitions=num_partitions, num_sub_vectors=num_sub_vectors
        )
        try:
            self._table.create_index("vector", config=config)
        except (ValueError, RuntimeError) as error:
            raise DataError(f"LanceDB made no index: {_first(error)}.") from None

    def compact(self) -> None:
        """Join the small files that many calls of `add` leave, and bring the index up to date."""
        self._table.optimize()

    def _nearest(
        self, units: np.ndarray, columns: int, test: str | None
    ) -> list[list[tuple[str, float]]]:
        """Of every query at least `columns` rows, all that share the last score among them."""
        hits: list[list[tuple[str, float]]] = [[] for _ in units]
        if self.nprobes is not None:
            hits = self._ask(units, columns, test, exact=False)
        pending = [number for number, hit in enumerate(hits) if len(hit) < columns]
        asked = columns + _MORE
        while pending:
            for number, hit in zip(pending, self._ask(units[pending], asked, test, exact=True)):
                hits[number] = hit
            pending = [
                number
                for number in pending
                if len(hits[number]) == asked
                and hits[number][columns - 1][1] - hits[number][-1][1] <= _EQUAL
            ]
            asked *= 4
        return hits

    def _ask(
        self, units: np.ndarray, limit: int, test: str | None, *, exact: bool
    ) -> list[list[tuple[str, float]]]:
        query = self._table.search(list(units)).distance_type("cosine").limit(limit)
        query = query.select(["id", "_distance"])
        if exact:
            query = query.bypass_vector_index()
        else:
            query = query.minimum_nprobes(self.nprobes).maximum_nprobes(0).refine_factor(10)
        answer = (query if test is None else query.where(test)).to_arrow()
        number = np.zeros(len(answer), np.int64)  # LanceDB numbers the queries of a batch only
        if "query_index" in answer.schema.names:
            number = answer["query_index"].to_numpy()
        hits: list[list[tuple[str, float]]] = [[] for _ in units]
        scores = 1 - answer["_distance"].to_numpy().astype(np.float64)
        for query_number, name, score in zip(number, answer["id"].to_pylist(), scores):
            hits[query_number].append((name, float(score)))
        return hits

    def _by_id(self, column: str, ids: Sequence[str]) -> dict[str, Any]:
        there: dict[str, Any] = {}
        for test in _among(set(checked_ids(ids))):
            part = self._table.search().where(test).limit(None).select(["id", column]).to_arrow()
            values = part[column].combine_chunks()
            if column == "vector":
                values = values.flatten().to_numpy().reshape(-1, self._dim)
            else:
                values = values.to_pylist()
            there.update(zip(part["id"].to_pylist(), values))
        return there

    def _schema_with(self, names: Iterable[str]) -> Any:
        """The schema of the table, after adding the columns that it lacks."""
        arrow = library("pyarrow", "lance")
        missing = [name for name in names if name not in self._table.schema.names]
        if missing:
            self._table.add_columns([arrow.field(name, arrow.string()) for name in missing])
        return self._table.schema

    def _as_sql(self, conditions: Sequence[Condition]) -> str | None:
        columns = self._table.schema.names
        tests = [_as_sql(one, _column(one.name) in columns) for one in conditions]
        return " AND ".join(tests) or None

    def _flush(self, since_ns: int) -> None:
        """Wait until what was written since then is on the disk; object stores do so anyway."""
        if self._folder is None:
            return
        for path in self._folder.rglob("*"):
            if path.stat().st_mtime_ns >= since_ns - 1_000_000_000:  # clocks of files are coarse
                sync(path)


def _as_sql(condition: Condition, known: bool) -> str:
    """A condition -> SQL; see Condition.holds. known: whether any row ever had the name."""
    name, sign, value = condition
    keys = [_quoted(_sortable(one)) for one in (value if sign == "in" else [value])]
    if not known:
        return "true" if sign == "!=" else "false"
    column = f"`{_column(name)}`"
    if sign == "in":
        return f"{column} IN ({', '.join(keys)})" if keys else "false"
    if sign == "!=":
        return f"({column} IS NULL OR {column} <> {keys[0]})"
    if sign == "=":
        return f"{column} = {keys[0]}"
    kind = keys[0][1]
    after = chr(ord(kind) + 1)  # sorts after every text of this kind
    return f"({column} {sign} {keys[0]} AND {column} >= '{kind}' AND {column} < '{after}')"


def _held(value: Any) -> Any:
    """The value. Raises DataError for a whole number that its text would not tell from others."""
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        raise DataError("Got a whole number of more than 64 bits; LanceDB cannot filter on it.")
    return value


def _sortable(value: Any) -> str | None:
    """A text for a value of the metadata; texts of one kind sort as the values do.

    Of a number: the bits of the nearest double, made to sort, then what a whole number has beyond
    that double. Whole numbers of 64 bits and all floats keep their order exactly.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        return f"b{int(value)}"
    if isinstance(value, str):
        return f"t{storable(value, 'LanceDB')}"
    try:
        near = float(value) + 0.0  # why: -0.0 becomes 0.0
        beyond = int(value) - int(near) if isinstance(value, int) else 0
    except OverflowError:
        near, beyond = (float("inf") if value > 0 else float("-inf")), 0
    (bits,) = struct.unpack(">Q", struct.pack(">d", near))
    bits = ~bits & (1 << 64) - 1 if bits >> 63 else bits | 1 << 63
    return f"n{bits:016x}{min(max(beyond, -0x8000), 0x7FFF) + 0x8000:04x}"


def _column(name: str) -> str:
    return f"m_{storable(name, 'LanceDB')}"


def _quoted(text: str | None) -> str:
    return "'" + str(text).replace("'", "''") + "'"


def _among(ids: Iterable[str]) -> Iterable[str]:
    """SQL tests that together find the rows of these ids."""
    possible = []
    for name in ids:
        try:
            possible.append(_quoted(storable(name, "LanceDB")))
        except DataError:
            continue  # such an id is in no table
    for start in range(0, len(possible), _IDS):
        yield f"id IN ({', '.join(possible[start : start + _IDS])})"


def _lists(vectors: np.ndarray, kind: Any) -> Any:
    arrow = library("pyarrow", "lance")
    return arrow.FixedSizeListArray.from_arrays(arrow.array(vectors.reshape(-1)), type=kind)


def _connect(uri: str, storage_options: Mapping[str, str] | None) -> Any:
    options = dict(storage_options) if storage_options else None
    try:
        # why zero: what another process wrote is seen at once
        return library("lancedb", "lance").connect(
            uri, storage_options=options, read_consistency_interval=timedelta(0)
        )
    except (ValueError, OSError, RuntimeError) as error:
        raise DataError(f"{uri} cannot be opened with LanceDB: {_first(error)}.") from None


def _local(uri: str) -> Path | None:
    """The folder of a uri, None for an object store."""
    plain = uri.removeprefix("file://")
    return None if "://" in plain else Path(plain)


def _first(error: BaseException) -> str:
    """The first line of what LanceDB says, without the places in its source."""
    line = str(error).strip().partition("\n")[0]
    return re.sub(r",? /\S+\.rs:[\d:]+", "", line).rstrip(".")
