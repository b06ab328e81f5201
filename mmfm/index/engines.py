"""Any vector engine from one string, and rows from one engine into another.

FOLDER                                  FlatIndex, ours
faiss:FOLDER?factory=HNSW32             FaissIndex      pip install 'mmfm[faiss]'
lance:FOLDER or lance:s3://BUCKET/PATH  LanceIndex      pip install 'mmfm[lance]'
postgresql://USER@HOST/DB?table=NAME    PgVectorIndex   pip install 'mmfm[pgvector]'
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlencode

from mmfm.errors import DataError, InputError
from mmfm.index.protocol import VectorIndex

_BATCH = 4_096  # rows, 8 MB of vectors at D = 512
_POSTGRESQL = ("postgresql://", "postgres://")


def open_engine(url: str, dim: int | None = None, create: bool = False) -> VectorIndex:
    """The index at `url`; see above.

    After `?` and between `&`: faiss takes factory (only when made) and search, lance takes table,
    nprobes and LanceDB's storage options, postgresql takes table, ef_search and what libpq takes.
    dim: of the vectors, needed when the index is made. create: make it where there is none.

    Raises DataError when there is none and `create` is false, when it has another `dim`, when it
    cannot be reached, or when a library is missing, naming the extra that brings it.
    """
    make, there, options = _maker(url)
    try:
        index = there(**options)
    except DataError as error:
        if not create:
            raise
        if dim is None:
            raise DataError(f"{error} Making it needs the length of its vectors, dim.") from None
        try:
            return make(dim=dim, **options)
        except InputError as failed:
            raise DataError(f"{error} Nor can it be made: {failed}") from None
    if dim is not None and index.dim != dim:
        index.close()
        raise DataError(f"The index holds vectors of length {index.dim}; wanted {dim}.")
    return index


def copy(source: VectorIndex, target: VectorIndex, batch: int = _BATCH) -> int:
    """Put every row of one index into another, `batch` at a time; returns how many.

    Rows of `target` with the same id are replaced, others stay. Run it again after a crash.
    """
    if source.dim != target.dim:
        raise DataError(f"Got an index of vectors of length {source.dim} for one of {target.dim}.")
    ids = source.ids()
    for start in range(0, len(ids), batch):
        part = ids[start : start + batch]
        target.add(part, source.vectors(part), source.metadata(part))
    return len(ids)


Maker = Callable[..., VectorIndex]


def _maker(url: str) -> tuple[Maker, Maker, dict[str, Any]]:
    """How to make and how to open the index of a url, and what both are told."""
    if url.startswith(_POSTGRESQL):
        from mmfm.index.pgvector_index import PgVectorIndex

        place, ours, others = _split(url, {"table": str, "ef_search": int})
        address = f"{place}?{urlencode(others, quote_via=quote)}" if others else place
        return PgVectorIndex.create, PgVectorIndex.open, {"url": address, **ours}
    if url.startswith("lance:"):
        from mmfm.index.lance_index import LanceIndex

        place, ours, others = _split(url.removeprefix("lance:"), {"table": str, "nprobes": int})
        told = {"uri": place, "storage_options": others or None, **ours}
        return LanceIndex.create, LanceIndex.open, told
    if url.startswith("faiss:"):
        from mmfm.index.faiss_index import FaissIndex

        known = {"factory": str, "search": str}
        place, ours, others = _split(url.removeprefix("faiss:"), known)
        if others:
            raise DataError(f"Got {next(iter(others))!r} for faiss; wanted factory or search.")
        return FaissIndex.create, FaissIndex.open, {"path": place, **ours}
    from mmfm.index.flat import FlatIndex

    return FlatIndex.create, FlatIndex.open, {"path": url}


def _split(url: str, known: Mapping[str, type]) -> tuple[str, dict[str, Any], dict[str, str]]:
    """What stands before `?`, the options that are known, and the others."""
    place, _, query = url.partition("?")
    pairs = (part.partition("=") for part in query.split("&") if part)
    given = {unquote(name): unquote(value) for name, _, value in pairs}
    try:
        ours = {name: kind(given.pop(name)) for name, kind in known.items() if name in given}
    except ValueError:
        raise DataError(f"Got the options {query!r}; wanted a whole number.") from None
    return place, ours, given
