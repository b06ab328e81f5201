"""Rows of a FlatIndex with a faiss index over them, for the many structures that faiss has.

    FOLDER/rows/        the FlatIndex: everything that counts, safe on disk after every call
    FOLDER/faiss.json   the factory string and the search settings
    FOLDER/faiss.index  the faiss index, only while it agrees with the rows
    FOLDER/faiss.ids    its ids, JSON, in its order

The faiss index can be made again from the rows, so it is removed before they change and written
when the index is closed; after a crash it is missing and made anew at the first search.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mmfm.durable import replacing, sync
from mmfm.errors import DataError
from mmfm.index.flat import FlatIndex
from mmfm.index.protocol import Found, Metadata
from mmfm.index.rows import checked_k, checked_queries, checked_rows, found, library
from mmfm.index.where import read_where

_BLOCK = 65_536  # rows at a time
_QUERIES = 64  # at a time
_MORE = 16  # rows asked for beyond k, to see whether the last score has equals
_EQUAL = 1e-6
_CANDIDATES = 10  # times k, where faiss is approximate
_FEWEST, _ENOUGH = 39, 256  # rows a centroid for training: below faiss warns, beyond it drops
_LITTER = 1_000  # removed rows that do not matter


class FaissIndex:
    """Make one with `create` or `open`; one process at a time may change it.

    faiss names candidates and their scores are computed from the stored vectors, so that only
    recall is up to the factory. Not asked of faiss, and exact, are searches with `where`, and all
    searches while there are too few rows to train a factory that needs training.
    """

    def __init__(self, rows: FlatIndex, place: Path | None, factory: str, search: str) -> None:
        self._rows = rows
        self._place = place
        self.factory = factory
        self._settings = search
        self._faiss: Any = None
        self._names: list[str | None] = []  # by row of the faiss index; None: removed
        self._row: dict[str, int] = {}
        self._saved = False
        self._needed = _rows_to_train(self._blank(), factory)  # refuses a wrong factory

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str] | None,
        dim: int,
        factory: str = "Flat",
        search: str = "",
    ) -> FaissIndex:
        """path: a new folder; None keeps all in memory.

        factory: as faiss.index_factory has it, such as "HNSW32" or "IVF256,PQ32x4fs". search:
        settings as faiss.ParameterSpace has them, such as "nprobe=16" or "efSearch=64".

        Raises DataError when the folder holds something or faiss does not know the factory.
        """
        if path is None:
            return cls(FlatIndex.create(None, dim), None, factory, search)
        place = Path(path)
        if place.exists() and any(place.iterdir()):
            raise DataError(f"{place} holds something already; open it, or name a new folder.")
        cls(FlatIndex.create(None, dim), None, factory, search)  # why: refuse before writing
        place.mkdir(parents=True, exist_ok=True)
        rows = FlatIndex.create(place / "rows", dim)
        with replacing(place / "faiss.json") as file:
            file.write(json.dumps({"factory": factory, "search": search}).encode())
        return cls(rows, place, factory, search)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        factory: str | None = None,
        search: str | None = None,
    ) -> FaissIndex:
        """search: other settings than it was made with. factory: refused unless the one it has.

        Raises DataError when there is no such index, or it is damaged.
        """
        place = Path(path)
        try:
            told = json.loads((place / "faiss.json").read_bytes())
            made = str(told["factory"]), str(told["search"])
        except (OSError, ValueError, KeyError, TypeError):
            raise DataError(f"There is no faiss index in {place}; make it with create.") from None
        if factory not in (None, made[0]):
            raise DataError(f"The index in {place} was made with {made[0]!r}, not {factory!r}.")
        rows = FlatIndex.open(place / "rows")
        return cls(rows, place, made[0], made[1] if search is None else search)

    @property
    def dim(self) -> int:
        return self._rows.dim

    def __len__(self) -> int:
        return len(self._rows)

    def ids(self) -> list[str]:
        return self._rows.ids()

    def add(
        self, ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[Metadata] | None = None
    ) -> None:
        rows = checked_rows(ids, vectors, metadata, self.dim)
        with self._changing():
            self._rows.add(*rows)
            if self._faiss is not None and rows.ids:
                self._forget(rows.ids)
                self._append(rows.ids, rows.vectors)

    def remove(self, ids: Sequence[str]) -> int:
        with self._changing():
            count = self._rows.remove(ids)
            self._forget(ids)
        return count

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        return self._rows.vectors(ids)

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        return self._rows.metadata(ids)

    def search(self, queries: np.ndarray, k: int = 10, where: Any = None) -> Found:
        if read_where(where) or not self._ready():
            return self._rows.search(queries, k, where)
        units, columns = checked_queries(queries, self.dim), min(checked_k(k), len(self))
        hits: list[list[tuple[str, float]]] = []
        for start in range(0, len(units), _QUERIES):
            hits += self._nearest(units[start : start + _QUERIES], columns)
        return found(hits, columns)

    def close(self) -> None:
        """Keeps the faiss index, which a crash before would cost and which is made anew then."""
        if self._faiss is not None and self._place is not None and not self._saved:
            with replacing(self._place / "faiss.ids") as file:
                file.write(json.dumps(self._names).encode())
            with replacing(self._place / "faiss.index") as file:
                faiss = library("faiss", "faiss")
                faiss.write_index(self._faiss, faiss.PyCallbackIOWriter(file.write))
            self._saved = True
        self._rows.close()

    def _nearest(self, units: np.ndarray, columns: int) -> list[list[tuple[str, float]]]:
        """Of every query at least `columns` rows; of an exact factory all with the last score."""
        hits: list[list[tuple[str, float]]] = [[] for _ in units]
        exact = self.factory == "Flat"
        pending = np.arange(len(units))
        asked = columns + _MORE if exact else columns * _CANDIDATES
        while len(pending):
            asked = min(asked, len(self._names))
            _, places = self._faiss.search(units[pending], asked)
            unsettled = []
            for number, scored in zip(pending, self._scored(units[pending], places)):
                hits[number] = sorted(scored, key=lambda pair: -pair[1])
                enough = len(scored) >= columns
                if enough and exact and asked < len(self._names):
                    enough = hits[number][columns - 1][1] - hits[number][-1][1] > _EQUAL
                if not enough:
                    unsettled.append(number)
            pending = np.array(unsettled, np.int64)
            if asked == len(self._names):
                break
            asked *= 4
        for number in pending:  # why: faiss looks into some of its lists only
            if len(hits[number]) < columns:
                answer = self._rows.search(units[number], columns)
                hits[number] = list(zip(answer.ids[0], answer.scores[0].tolist()))
        return hits

    def _scored(self, units: np.ndarray, places: np.ndarray) -> list[list[tuple[str, float]]]:
        """Rows of the faiss index named for every query -> ids and exact scores of those alive."""
        hits: list[list[tuple[str, float]]] = [[] for _ in units]
        query, _ = np.nonzero(places >= 0)
        names = [self._names[place] for place in places[places >= 0]]
        alive = np.array([name is not None for name in names], bool)
        kept = [name for name in names if name is not None]
        if not kept:
            return hits
        different = {name: number for number, name in enumerate(dict.fromkeys(kept))}
        vectors = self._rows.vectors(list(different))
        row = np.array([different[name] for name in kept])
        scores = np.einsum(
            "hd,hd->h", vectors[row], units[query[alive]]
        )  # equal rows, equal scores
        for number, name, score in zip(query[alive], kept, scores.tolist()):
            hits[number].append((name, score))
        return hits

    def _ready(self) -> bool:
        """Whether there is a faiss index to ask; makes it when it can be made."""
        if self._faiss is None and not self._load() and len(self) >= self._needed:
            self._build()
        return self._faiss is not None and bool(self._row)

    def _load(self) -> bool:
        """Read the kept faiss index. One that does not fit the rows is passed over."""
        if self._place is None or not (self._place / "faiss.index").exists():
            return False
        faiss = library("faiss", "faiss")
        try:
            names = json.loads((self._place / "faiss.ids").read_bytes())
            kept = faiss.read_index(str(self._place / "faiss.index"))
        except (OSError, ValueError, RuntimeError):
            return False
        row = {name: number for number, name in enumerate(names) if name is not None}
        if kept.ntotal != len(names) or kept.d != self.dim or sorted(row) != self.ids():
            return False
        self._faiss, self._names, self._row, self._saved = kept, names, row, True
        self._set()
        return True

    def _build(self) -> None:
        ids = self.ids()
        fresh = self._blank()
        if not fresh.is_trained:
            most = min(len(ids), self._needed // _FEWEST * _ENOUGH)
            chosen = np.random.default_rng(0).choice(len(ids), most, replace=False)
            fresh.train(self.vectors([ids[row] for row in np.sort(chosen)]))
        self._faiss, self._names, self._row, self._saved = fresh, [], {}, False
        for start in range(0, len(ids), _BLOCK):
            part = ids[start : start + _BLOCK]
            self._append(part, self.vectors(part))
        self._set()

    def _blank(self) -> Any:
        faiss = library("faiss", "faiss")
        try:
            index = faiss.index_factory(self.dim, self.factory, faiss.METRIC_INNER_PRODUCT)
            faiss.ParameterSpace().set_index_parameters(index, self._settings)
        except RuntimeError:
            raise DataError(
                f"faiss knows no index {self.factory!r} of vectors of length {self.dim} with the "
                f'settings {self._settings!r}; wanted such as "HNSW32" with "efSearch=64".'
            ) from None
        return index

    def _set(self) -> None:
        parameters = library("faiss", "faiss").ParameterSpace()
        parameters.set_index_parameters(self._faiss, self._settings)

    def _append(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        self._faiss.add(np.ascontiguousarray(vectors))
        self._row.update(zip(ids, range(len(self._names), len(self._names) + len(ids))))
        self._names += ids

    def _forget(self, ids: Sequence[str]) -> None:
        """Rows of these ids are passed over from now on; with half of all gone, begin anew."""
        for name in ids:
            if name in self._row:
                self._names[self._row.pop(name)] = None
        if len(self._names) > 2 * len(self._row) + _LITTER:
            self._faiss, self._names, self._row = None, [], {}

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """While the rows change there is no kept faiss index that could disagree with them."""
        if self._place is not None and (self._place / "faiss.index").exists():
            if self._faiss is None:
                self._load()
            (self._place / "faiss.index").unlink()
            sync(self._place)
        self._saved = False
        try:
            yield
        except BaseException:
            self._faiss, self._names, self._row = None, [], {}
            raise


def _rows_to_train(index: Any, factory: str) -> int:
    """How many rows faiss wants to see before it can add any; 0 when none."""
    if index.is_trained:
        return 0
    lists = library("faiss", "faiss").try_extract_index_ivf(index)
    centroids = 256 if re.search(r"PQ|RQ|LSQ", factory) and "x4" not in factory else 16
    return _FEWEST * max(centroids, lists.nlist if lists else 0)
