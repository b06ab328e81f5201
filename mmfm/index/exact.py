"""Exact cosine search over a memory-mapped matrix: build from a folder, open, ask.

No approximation and no server: one matrix product over all rows, good to about a million pictures.
Opening and searching with a vector load neither torch nor the model.
"""

from __future__ import annotations

import contextlib
import operator
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfm.errors import DataError, InputError, ModelError
from mmfm.index import store
from mmfm.index.build import Known, Report, collect
from mmfm.index.entries import Entry
from mmfm.index.query import Embedder, query_vector

_BLOCK = 65_536  # rows per matrix product: 128 MB at D = 512
_DECIMALS = 6  # of a score; below that float32 sums depend on where a row stands


@dataclass(frozen=True)
class Hit:
    """One result: absolute path, cosine in [-1, 1], row of the index."""

    path: str
    score: float
    row: int


class Index:
    """The pictures of a folder and their vectors; make one with `build` or `open`.

    vectors: (N, D) float32, unit rows, memory-mapped when the index is on disk.
    report: what the build did (added, changed, kept, removed, skipped, rebuilt); {} when opened.
    model: used for queries of words and pictures; None means vectors only.
    """

    def __init__(
        self, stored: store.Stored, folder: Path, model: Embedder | None, report: dict[str, Any]
    ) -> None:
        self._stored = stored
        self.folder = folder
        self.model = None if model is None else self._fitting(model)
        self.report = report

    @classmethod
    def build(
        cls,
        model: Embedder,
        folder: str | os.PathLike[str],
        path: str | os.PathLike[str] | None = None,
        progress: bool = False,
        *,
        batch_size: int | None = None,
        on_error: str = "skip",
        known: Known | None = None,
    ) -> Index:
        """Index the pictures below `folder`; with `path`, keep the index there.

        An index already at `path` is brought up to date: only new and changed pictures are
        embedded, removed ones dropped. If it was made with another backbone or is damaged, it is
        built anew and report["rebuilt"] says why. A build that is killed leaves the older index
        as it was.
        on_error: "skip" lists unreadable pictures in report["skipped"]; "raise" stops at the first.
        known: gives vectors of this model by the sha256 of pictures, so that they need not be
        embedded, such as `EmbeddingStore.found`.

        Raises DataError when the folder holds no readable picture, OutputError when `path` cannot
        be written or holds something else, ImageError with on_error="raise".
        """
        if on_error not in ("skip", "raise"):
            raise DataError(f"Got on_error={on_error!r}; wanted 'skip' or 'raise'.")
        root = Path(os.path.abspath(folder))
        report = Report()
        options: dict[str, Any] = {
            "batch_size": batch_size,
            "on_error": on_error,
            "progress": progress,
            "known": known,
        }
        if path is None:
            rows, vectors, seen_at_ns = collect(model, root, None, report, **options)
            stored = _pack(model, rows, vectors, seen_at_ns, root, None)
            return cls(stored, root, model, report.as_dict())
        place = Path(os.path.realpath(path))
        with store.room_for(place) as staging:  # first, so that a bad place costs no embedding
            old = _reusable(model, root, place, report)
            rows, vectors, seen_at_ns = collect(model, root, old, report, **options)
            del old  # why: some systems cannot rename a folder while its vectors are mapped
            store.fill(staging, _pack(model, rows, vectors, seen_at_ns, root, place))
            store.swap(staging, place)
        return cls(store.read(place), root, model, report.as_dict())

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        model: Embedder | None = None,
        *,
        folder: str | os.PathLike[str] | None = None,
    ) -> Index:
        """Open an index; loads no model and no vectors.

        model: the one that made it, needed for words and pictures as queries.
        folder: where the pictures are now; None finds them beside the index as they were when it
        was built, or at their old absolute place.

        Raises DataError when there is no index or it is damaged, ModelError for another model.
        """
        place = Path(os.path.realpath(path))
        stored = store.read(place)
        root = _find_folder(stored, place) if folder is None else Path(os.path.abspath(folder))
        return cls(stored, root, model, {})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to `path`, whole or not at all. Raises OutputError if that fails."""
        place = Path(os.path.realpath(path))
        header = self._stored.header
        fresh = _header(
            header.model,
            header.backbone_hash,
            self.vectors.shape,
            header.created_ns,
            self.folder,
            place,
        )
        store.write(place, store.Stored(fresh, self.entries, self.vectors))

    def search(
        self,
        query: Any = None,
        k: int = 10,
        *,
        image: Any = None,
        minus: Any = None,
        model: Embedder | None = None,
    ) -> list[Hit]:
        """The k nearest pictures, best first; all of them when k is larger than the index.

        query: words (str), a vector (D,), a picture (Path, Pillow image, bytes, array), or a list
        of such items or (item, weight) pairs. image: a picture more, here a str is a path too.
        minus: words or any such item to stay away from, weight 1 unless given as (item, weight).
        All parts are unit vectors, summed with their weights. Scores are rounded to 6 decimals and
        ties are ordered by path, so equal pictures come in the same order everywhere.

        Raises DataError for k < 1 or an unusable query, ModelError when a model is needed, missing,
        or not the one that made the index.
        """
        try:
            k = operator.index(k)
        except TypeError as error:
            raise DataError(f"Got k={k!r}; wanted a whole number of results.") from error
        if k < 1:
            raise DataError(f"Got k={k}; wanted at least 1 result.")
        model = self.model if model is None else self._fitting(model)
        vector = query_vector(query, image, minus, model, self.dim)
        scores = self._scores(vector)
        candidates = np.arange(len(scores))
        if k < len(scores):
            kth = np.partition(scores, len(scores) - k)[len(scores) - k]
            candidates = np.flatnonzero(scores >= kth)
        # rows are sorted by path, so the row number breaks ties by path
        best = candidates[np.lexsort((candidates, -scores[candidates]))][:k]
        return [Hit(self._absolute(self.entries[r]), float(scores[r]), int(r)) for r in best]

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"Index({len(self)} pictures of {self.folder}, {self.dim}-d, {self.model_name!r})"

    @property
    def vectors(self) -> np.ndarray:
        return self._stored.vectors

    @property
    def entries(self) -> list[Entry]:
        return self._stored.entries

    @property
    def paths(self) -> list[str]:
        """Absolute path of every row."""
        return [self._absolute(entry) for entry in self.entries]

    @property
    def dim(self) -> int:
        return self._stored.header.dim

    @property
    def model_name(self) -> str:
        return self._stored.header.model

    @property
    def backbone_hash(self) -> str:
        return self._stored.header.backbone_hash

    def _absolute(self, entry: Entry) -> str:
        return str(self.folder / entry.path)

    def _scores(self, vector: np.ndarray) -> np.ndarray:
        """(N,) float64 cosines, rounded."""
        scores = np.empty(len(self), np.float64)
        for start in range(0, len(self), _BLOCK):
            scores[start : start + _BLOCK] = self.vectors[start : start + _BLOCK] @ vector
        return np.round(scores, _DECIMALS)

    def _fitting(self, model: Embedder) -> Embedder:
        if model.backbone_hash != self.backbone_hash:
            raise ModelError(
                f"The index was made with {self.model_name!r}, backbone {self.backbone_hash[:12]}, "
                f"this model's backbone is {model.backbone_hash[:12]}; load that model or build "
                "the index again."
            )
        return model


def _header(
    model: str,
    backbone_hash: str,
    shape: tuple[int, ...],
    created_ns: int,
    folder: Path,
    place: Path | None,
) -> store.Header:
    beside = None
    if place is not None:
        with contextlib.suppress(ValueError):  # another drive: only the absolute place is known
            beside = Path(os.path.relpath(os.path.realpath(folder), place)).as_posix()
    return store.Header(
        version=store.VERSION,
        model=model,
        backbone_hash=backbone_hash,
        count=shape[0],
        dim=shape[1],
        folder=str(folder),
        folder_beside=beside,
        created_ns=created_ns,
    )


def _pack(
    model: Embedder,
    rows: list[Entry],
    vectors: np.ndarray,
    seen_at_ns: int,
    folder: Path,
    place: Path | None,
) -> store.Stored:
    name = str(getattr(model, "name", ""))
    header = _header(name, model.backbone_hash, vectors.shape, seen_at_ns, folder, place)
    return store.Stored(header, rows, vectors)


def _reusable(model: Embedder, folder: Path, place: Path, report: Report) -> store.Stored | None:
    """The index at `place` if its vectors can be used for this build; else why not, reported."""
    if not store.exists(place):
        return None
    try:
        old = store.read(place)
    except InputError as error:
        report.rebuilt = str(error)
        return None
    if old.header.backbone_hash != model.backbone_hash:
        report.rebuilt = f"the index was made with another backbone ({old.header.model!r})"
        return None
    return old


def _find_folder(stored: store.Stored, place: Path) -> Path:
    """Where the pictures are: beside the index as at build time, else their old absolute place."""
    old_place = Path(stored.header.folder)
    if stored.header.folder_beside is not None and stored.entries:
        beside = Path(os.path.normpath(place / stored.header.folder_beside))
        if (beside / stored.entries[0].path).exists():
            return beside
    return old_place
