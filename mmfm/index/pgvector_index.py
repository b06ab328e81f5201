"""Rows in a PostgreSQL table with the pgvector extension, for many writers and readers at once.

    id text PRIMARY KEY    embedding vector(D)    metadata text    fields jsonb

`metadata` is JSON exactly as given; `fields` is the same for conditions, its numbers written so
that PostgreSQL compares them as Python does, with an inverted index. Values reach the server as
parameters, never as SQL text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

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

_COLUMNS = {"id": "text", "embedding": "vector", "metadata": "text", "fields": "jsonb"}
_TABLE = re.compile(r"([A-Za-z_]\w{0,58}\.)?[A-Za-z_]\w{0,58}", re.ASCII)
_MOST_EF = 1000  # pgvector's own limit of hnsw.ef_search
_KINDS = {bool: "boolean", int: "number", float: "number", str: "string"}  # of jsonb_typeof


class PgVectorIndex:
    """One table; make one with `create` or `open`. Every change is one transaction.

    ef_search: None searches exactly; a number lets searches without `where` use the HNSW index of
    `create_ann_index`, looking at that many candidates (at least k).
    """

    def __init__(self, connection: Any, table: str, dim: int, ef_search: int | None) -> None:
        self._connection = connection
        self._table = table
        self._dim = dim
        self.ef_search = ef_search

    @classmethod
    def create(
        cls, url: str, dim: int, table: str = "mmfm", *, ef_search: int | None = None
    ) -> PgVectorIndex:
        """Make the table, and the extension where it is missing. url: as libpq reads it.

        Raises DataError when the server cannot be reached, has no pgvector, or has such a table.
        """
        with _connected(url) as connection:
            _make(connection, table, dim)
            return cls._of(connection, table, ef_search)

    @classmethod
    def open(cls, url: str, table: str = "mmfm", *, ef_search: int | None = None) -> PgVectorIndex:
        """Raises DataError when the server cannot be reached or has no such table of ours."""
        with _connected(url) as connection:
            return cls._of(connection, table, ef_search)

    @classmethod
    def _of(cls, connection: Any, table: str, ef_search: int | None) -> PgVectorIndex:
        dim = _dim_of(connection, table)
        library("pgvector.psycopg", "pgvector").register_vector(connection)
        return cls(connection, table, dim, ef_search)

    @property
    def dim(self) -> int:
        return self._dim

    def __len__(self) -> int:
        return self._run("SELECT count(*) FROM {table}").fetchone()[0]

    def ids(self) -> list[str]:
        rows = self._run('SELECT id FROM {table} ORDER BY id COLLATE "C"')
        return [row[0] for row in rows]

    def add(
        self, ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[Metadata] | None = None
    ) -> None:
        rows = checked_rows(ids, vectors, metadata, self._dim)
        values = [
            (_text(name), vector, json.dumps(given), _fields(given))
            for name, vector, given in zip(*rows)
        ]
        columns = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
        with _refusals(), self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.execute(f"CREATE TEMP TABLE mmfm_fresh ({columns}) ON COMMIT DROP")
            with cursor.copy("COPY mmfm_fresh FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(list(_COLUMNS.values()))
                for value in values:
                    copy.write_row(value)
            # why ordered: two writers of the same rows then wait for each other, no deadlock
            self._run(
                "INSERT INTO {table} SELECT * FROM mmfm_fresh ORDER BY id "
                "ON CONFLICT (id) DO UPDATE SET embedding = excluded.embedding, "
                "metadata = excluded.metadata, fields = excluded.fields"
            )

    def remove(self, ids: Sequence[str]) -> int:
        return self._run("DELETE FROM {table} WHERE id = ANY(%s)", [_possible(ids)]).rowcount

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        there = in_order(ids, self._by_id("embedding", ids))
        return np.array([_numbers(one) for one in there], np.float32).reshape(-1, self._dim)

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        return [json.loads(text) for text in in_order(ids, self._by_id("metadata", ids))]

    def search(self, queries: np.ndarray, k: int = 10, where: Any = None) -> Found:
        units, columns = checked_queries(queries, self._dim), min(checked_k(k), len(self))
        conditions = read_where(where)
        return found([self._nearest(unit, columns, conditions) for unit in units], columns)

    def close(self) -> None:
        self._connection.close()

    def create_ann_index(self, m: int = 16, ef_construction: int = 64) -> None:
        """An HNSW index of the vectors (Malkov and Yashunin, 2018), which the server keeps.

        m: links of a row; ef_construction: candidates looked at while building. Replaces an older
        one. Searches use it once `ef_search` is set. Raises DataError beyond 2,000 numbers a row.
        """
        from psycopg import sql

        name = sql.Identifier(f"{self._table.rpartition('.')[2]}_ann")
        options: Any = {"m": sql.Literal(int(m)), "ef": sql.Literal(int(ef_construction))}
        with _refusals(), self._connection.transaction():
            self._run("DROP INDEX IF EXISTS {name}", name=self._beside(name))
            self._run(
                "CREATE INDEX {name} ON {table} USING hnsw (embedding vector_ip_ops) "
                "WITH (m = {m}, ef_construction = {ef})",
                name=name,
                **options,
            )

    def _nearest(
        self, unit: np.ndarray, columns: int, conditions: tuple[Condition, ...]
    ) -> list[tuple[str, float]]:
        if self.ef_search is not None and not conditions and columns <= _MOST_EF:
            ef = min(max(self.ef_search, columns), _MOST_EF)
            with self._connection.transaction():
                self._run("SELECT set_config('hnsw.ef_search', %s, true)", [str(ef)])
                near = self._ask("embedding <#> %s", "distance", unit, columns, ())
            if len(near) == columns:  # why: HNSW may stop at rows that were removed
                return near
        # why + 0: no approximate index offers such an order, so every row is compared
        order = 'distance, id COLLATE "C"'
        return self._ask("(embedding <#> %s) + 0", order, unit, columns, conditions)

    def _ask(
        self,
        distance: str,
        order: str,
        unit: np.ndarray,
        columns: int,
        conditions: tuple[Condition, ...],
    ) -> list[tuple[str, float]]:
        tests = [_as_sql(one) for one in conditions]
        statement = (
            f"SELECT id, {distance} AS distance FROM {{table}} "
            f"WHERE {' AND '.join(['true', *(test for test, _ in tests)])} "
            f"ORDER BY {order} LIMIT %s"
        )
        values = [value for _, some in tests for value in some]
        rows = self._run(statement, [unit, *values, columns]).fetchall()
        return [(name, -distance) for name, distance in rows]

    def _by_id(self, column: str, ids: Sequence[str]) -> dict[str, Any]:
        statement = f"SELECT id, {column} FROM {{table}} WHERE id = ANY(%s)"
        return dict(self._run(statement, [_possible(ids)]).fetchall())

    def _run(self, statement: str, values: Sequence[Any] = (), **parts: Any) -> Any:
        with _refusals():
            return _run(self._connection, self._table, statement, values, **parts)

    def _beside(self, name: Any) -> Any:
        """A name in the schema of the table."""
        from psycopg import sql

        schema = self._table.rpartition(".")[0]
        return sql.Identifier(schema) + sql.SQL(".") + name if schema else name


def _as_sql(condition: Condition) -> tuple[str, list[Any]]:
    """A condition -> SQL with %s, and its values; see Condition.holds."""
    name, sign, value = condition
    if sign == "in":
        return "fields @> ANY(%s::jsonb[])", [[_json({name: one}) for one in value]]
    if sign == "=":
        return "fields @> %s::jsonb", [_json({name: value})]
    if sign == "!=":
        return "fields -> %s::text IS DISTINCT FROM %s::jsonb", [name, _json(value)]
    if isinstance(value, str):  # why: jsonb compares texts by the database's language
        test = f'(fields ->> %s::text) COLLATE "C" {sign} %s::text'
    else:
        test = f"fields -> %s::text {sign} %s::jsonb"
    kind = _KINDS[type(value)]
    given = _text(value) if isinstance(value, str) else _json(value)
    return f"(jsonb_typeof(fields -> %s::text) = '{kind}' AND {test})", [name, name, given]


def _json(value: Any) -> str:
    if isinstance(value, Mapping):
        return json.dumps(_fields(value))
    return json.dumps(_comparable(value))


def _fields(metadata: Metadata) -> dict[str, Any]:
    return {_text(name): _comparable(value) for name, value in metadata.items()}


def _comparable(value: Any) -> Any:
    """The value as PostgreSQL's decimals hold it exactly.

    Decimals of a float are rounded where it is a whole number of more than 17 digits.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> str:
    return storable(text, "PostgreSQL")


def _possible(ids: Sequence[str]) -> list[str]:
    """Those that can be in a table at all; the driver refuses to send the others."""
    possible = []
    for name in checked_ids(ids):
        try:
            possible.append(_text(name))
        except DataError:
            continue
    return possible


def _numbers(vector: Any) -> np.ndarray:
    """A vector as the pgvector package gives it: an array before 0.5, an object since."""
    return vector.to_numpy() if hasattr(vector, "to_numpy") else vector


def _run(
    connection: Any, table: str, statement: str, values: Sequence[Any] = (), **parts: Any
) -> Any:
    """The cursor of a statement; {table} and other parts are SQL, %s are values."""
    from psycopg import sql

    name = sql.Identifier(*table.split("."))
    composed = sql.SQL(statement).format(table=name, **parts)
    return connection.execute(composed, values, binary=True)


@contextmanager
def _connected(url: str) -> Iterator[Any]:
    """A connection, closed again when the block fails; errors of the server become DataError."""
    psycopg = library("psycopg", "pgvector")
    try:
        connection = psycopg.connect(url, autocommit=True)
    except psycopg.OperationalError as error:
        reason = " ".join(str(error).split())
        raise DataError(f"PostgreSQL cannot be reached: {reason}.") from None
    except psycopg.Error:  # why not told: its words may hold the password
        raise DataError(
            "The address of PostgreSQL cannot be read; wanted postgresql://USER@HOST/DATABASE."
        ) from None
    try:
        with _refusals():
            yield connection
    except BaseException:
        connection.close()
        raise


@contextmanager
def _refusals() -> Iterator[None]:
    """What the server or the driver says against a statement becomes a DataError."""
    psycopg = library("psycopg", "pgvector")
    try:
        yield
    except psycopg.Error as error:
        reason = error.diag.message_primary or str(error).partition("\n")[0]
        raise DataError(f"PostgreSQL refused: {reason}.") from error


def _make(connection: Any, table: str, dim: int) -> None:
    psycopg = library("psycopg", "pgvector")
    from psycopg import sql

    _checked_table(table)
    try:
        if not _run(
            connection, table, "SELECT FROM pg_extension WHERE extname = 'vector'"
        ).rowcount:
            _run(connection, table, "CREATE EXTENSION IF NOT EXISTS vector")
    except psycopg.Error as error:
        raise DataError(
            "The database has no extension `vector` and it cannot be made "
            f"({' '.join(str(error).split())}); install pgvector on the server and let an "
            "administrator run CREATE EXTENSION vector."
        ) from None
    with connection.transaction():
        try:
            _run(
                connection,
                table,
                "CREATE TABLE {table} (id text PRIMARY KEY, embedding vector({dim}) NOT NULL, "
                "metadata text NOT NULL, fields jsonb NOT NULL) "
                # why: up to 1,900 numbers stay in the row; scans were 5 times faster
                "WITH (toast_tuple_target = 8160)",
                dim=sql.Literal(int(dim)),
            )
        except psycopg.errors.DuplicateTable:
            raise DataError(f"The database has a table {table} already; open that.") from None
        _run(connection, table, "CREATE INDEX ON {table} USING gin (fields jsonb_path_ops)")


def _dim_of(connection: Any, table: str) -> int:
    _checked_table(table)
    statement = (
        "SELECT attname, format_type(atttypid, NULL), atttypmod FROM pg_attribute "
        "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
    )
    quoted = ".".join(f'"{part}"' for part in table.split("."))
    rows = _run(connection, table, statement, [quoted]).fetchall()
    if not rows:
        raise DataError(f"The database has no table {table}; make it with create.")
    columns = {name: kind.rpartition(".")[2] for name, kind, _ in rows}
    if columns != _COLUMNS:
        raise DataError(f"The table {table} is no index of ours; name another one.")
    return next(number for name, _, number in rows if name == "embedding")


def _checked_table(table: str) -> None:
    if not _TABLE.fullmatch(table):
        raise DataError(
            f"Got the table {table!r}; wanted NAME or SCHEMA.NAME of letters, digits and _."
        )
