"""What an engine asks of rows and queries before it starts, and how it hands over hits."""

from __future__ import annotations

import importlib
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from mmfm.errors import DataError
from mmfm.index.protocol import Found, Metadata

_UNIT = 1e-6  # a length this near to 1 is left as it is, so that copying a row changes no bit


class Rows(NamedTuple):
    """N rows that may be stored: unique ids, unit vectors (N, D) float32, one dict each."""

    ids: list[str]
    vectors: np.ndarray
    metadata: list[dict[str, Any]]


def checked_rows(
    ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[Metadata] | None, dim: int
) -> Rows:
    """Raises DataError for what no engine stores; see VectorIndex."""
    names = checked_ids(ids)
    twice = _first_twice(names)
    if twice is not None:
        raise DataError(f"Got the id {twice!r} twice in one call; give every row its own id.")
    units = _unit(vectors, dim, "vectors")
    if len(units) != len(names):
        raise DataError(f"Got {len(names)} ids and {len(units)} vectors; wanted as many of both.")
    if metadata is None:
        return Rows(names, units, [{} for _ in names])
    if len(metadata) != len(names):
        raise DataError(f"Got {len(names)} ids and metadata of {len(metadata)} rows.")
    return Rows(names, units, [_checked_metadata(*pair) for pair in zip(names, metadata)])


def checked_ids(ids: Sequence[str]) -> list[str]:
    """A list of strings. Raises DataError for anything else, a single string included."""
    wrong = ids if isinstance(ids, str) else next((x for x in ids if not isinstance(x, str)), None)
    if wrong is not None:
        raise DataError(f"Got {wrong!r} where ids are wanted; give a list of strings.")
    return list(ids)


def checked_queries(queries: np.ndarray, dim: int) -> np.ndarray:
    """(Q, D) or (D,) of any length -> unit rows (Q, D) float32."""
    array = np.asarray(queries)
    return _unit(array[None] if array.ndim == 1 else array, dim, "queries")


def checked_k(k: int) -> int:
    """Raises DataError unless k is a whole number of at least 1."""
    try:
        number = operator.index(k)
    except TypeError:
        number = 0
    if number < 1:
        raise DataError(f"Got k={k!r}; wanted a whole number of at least 1.")
    return number


def in_order(ids: Sequence[str], there: Mapping[str, Any]) -> list[Any]:
    """What `there` holds of every id. Raises DataError naming the first that it does not hold."""
    for name in ids:
        if name not in there:
            raise DataError(f"There is no row {name!r} in the index.")
    return [there[name] for name in ids]


def storable(text: str, engine: str) -> str:
    """The text. Raises DataError where a database cannot hold it as UTF-8 without NUL."""
    if "\0" not in text:
        try:
            text.encode()
            return text
        except UnicodeEncodeError:
            pass
    raise DataError(f"Got the text {text!r}; {engine} stores UTF-8 without NUL characters only.")


def found(hits: Sequence[Iterable[tuple[str, float]]], columns: int) -> Found:
    """Ids and scores of every query, in any order -> the best `columns`, equal scores by id."""
    scores = np.full((len(hits), columns), -np.inf, np.float32)
    ids = []
    for row, pairs in enumerate(hits):
        best = sorted((-float(np.float32(score)), name) for name, score in pairs)[:columns]
        scores[row, : len(best)] = [-score for score, _ in best]
        ids.append([name for _, name in best])
    return Found(ids, scores)


def library(name: str, extra: str) -> ModuleType:
    """An optional library. Raises DataError naming the extra that brings it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise DataError(
            f"This index needs {name}, which is not installed; pip install 'mmfm[{extra}]'."
        ) from None


def _unit(vectors: np.ndarray, dim: int, what: str) -> np.ndarray:
    try:
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
    except (TypeError, ValueError):
        raise DataError(f"Got {what} that are not numbers; wanted (N, {dim}) float32.") from None
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise DataError(f"Got {what} of shape {rows.shape}; this index holds (N, {dim}).")
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    wrong = ~np.isfinite(lengths) | (lengths == 0)
    if wrong.any():
        row = int(np.argmax(wrong))
        why = "is zero" if lengths[row] == 0 else "holds NaN or infinity"
        raise DataError(f"Row {row} of the {what} {why}; it has no direction, so leave it out.")
    off = np.abs(lengths - 1) > _UNIT
    if off.any():
        scaled = (rows[off] / lengths[off, None]).astype(np.float32)
        rows = np.array(rows)
        rows[off] = scaled
    return rows


def _checked_metadata(name: str, metadata: Metadata) -> dict[str, Any]:
    if not isinstance(metadata, Mapping) or not all(isinstance(key, str) for key in metadata):
        raise DataError(f"Got the metadata {metadata!r} of row {name!r}; wanted values by name.")
    for key, value in metadata.items():
        finite = not isinstance(value, float) or math.isfinite(value)
        if not finite or not isinstance(value, (str, int, float, bool, type(None))):
            raise DataError(
                f"Got {key}={value!r} in the metadata of row {name!r}; "
                "wanted a text, a finite number, true, false or None."
            )
    return dict(metadata)


def _first_twice(names: Sequence[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
