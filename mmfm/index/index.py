"""The pictures of a folder over a vector engine: build, open, ask.

The rows of the engine are the only truth: an id is the path of a picture inside the folder, the
metadata tell how to see that it changed. Opening and searching with a vector, or with a picture
that is in the index, load neither torch nor the model.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmfm.errors import DataError, ModelError
from mmfm.index import making, refine
from mmfm.index.build import Known, Options, Report
from mmfm.index.entries import Entry
from mmfm.index.flat import FlatIndex
from mmfm.index.header import Header
from mmfm.index.known_picture import KnownPictures
from mmfm.index.protocol import VectorIndex
from mmfm.index.query import Embedder, Query, query_vectors

_DEFAULTS = {"precision": "auto", "decode": "exact"}  # which mean nothing when they are given
_DECIMALS = 6  # of a score; beyond, float32 says nothing


@dataclass(frozen=True)
class Hit:
    """One result. path: absolute; score: cosine in [-1, 1]; row: its place in `Index.paths` (None
    over an engine that keeps no order); metadata: path inside the folder, size in bytes, width,
    height, folder and what the folder's tables say; caption_score: of a reranked hit, the mean log
    probability per token of the query's text given the picture.
    """

    path: str
    score: float
    row: int | None
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    caption_score: float | None = None


class Index:
    """The pictures of a folder and their vectors; make one with `build` or `open`.

    engine: the rows. report: what the build did (added, changed, kept, removed, reused, resumed,
    skipped, rebuilt, notes); {} when opened. model: for queries of words and pictures; None means
    vectors and known pictures only.
    """

    def __init__(
        self, engine: VectorIndex, header: Header, folder: Path, place: Path | None,
        model: Embedder | None, report: dict[str, Any],
    ) -> None:  # fmt: skip
        self.engine = engine
        self.folder = folder
        self.report = report
        self._header = header
        self._place = place
        self.model = None if model is None else self.fitting(model)

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
        metadata: Mapping[Any, Mapping[str, Any]] | None = None,
        engine: VectorIndex | None = None,
        **settings: Any,
    ) -> Index:
        """Index the pictures below `folder`; with `path`, keep the index there.

        An index already at `path` is brought up to date: only new and changed pictures are
        embedded, removed ones dropped. If it was made with another backbone or other settings, or
        is damaged, it is built anew and report["rebuilt"] says why. Until the build is complete the
        older index stays as it was; a build that is killed is gone on with by the next.
        on_error: "skip" lists unreadable pictures in report["skipped"] and keeps the list in the
        index, "raise" stops at the first. known: gives vectors of this model by the sha256 of
        pictures, so that they need not be embedded, such as `EmbeddingStore.found`. metadata: plain
        values by name, by the picture's path, beside those of the folder's captions.csv or
        metadata.jsonl; to be given at every build. engine: where the rows are kept instead of a
        FlatIndex; chunk by chunk, so readers see an unfinished state. settings: such as
        precision="fp32" or decode="fast", go to the model's `embed_images`.

        Raises DataError when the folder holds no readable picture, OutputError when `path` cannot
        be written, holds something else or is being written, ImageError with on_error="raise".
        """
        if on_error not in ("skip", "raise"):
            raise DataError(f"Got on_error={on_error!r}; wanted 'skip' or 'raise'.")
        root = Path(os.path.abspath(folder))
        place = None if path is None else Path(os.path.realpath(path))
        options = Options(
            batch_size=batch_size, on_error=on_error, progress=progress, known=known,
            metadata=_by_path(metadata or {}, root),
            settings={n: value for n, value in settings.items() if _DEFAULTS.get(n) != value},
        )  # fmt: skip
        report = Report()
        made = making.Making(model, root, place, options, report)
        filled, header = made.in_engine(engine) if engine is not None else made.in_folder()
        return cls(filled, header, root, place, model, report.as_dict())

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        model: Embedder | None = None,
        *,
        folder: str | os.PathLike[str] | None = None,
        engine: VectorIndex | None = None,
    ) -> Index:
        """Open an index; loads no model, no vectors and no metadata.

        model: the one that made it, needed for words and new pictures as queries. folder: where the
        pictures are now; None finds them beside the index as they were when it was built, or at
        their old absolute place. engine: the one it was built with, when that was given.

        Raises DataError when there is no index or it is damaged, ModelError for another model.
        """
        place = Path(os.path.realpath(path))
        if engine is None:
            engine = FlatIndex.open(making.check_own_rows(place))
            header = Header.of_about(engine.about, place)
        else:
            header = making.read_header(place)
        if folder is not None:
            return cls(engine, header, Path(os.path.abspath(folder)), place, model, {})
        example = next(iter(_some_id(engine)), None)
        return cls(engine, header, header.find_folder(place, example), place, model, {})

    @staticmethod
    def is_at(path: str | os.PathLike[str]) -> bool:
        """Whether there is an index (whole, damaged or unfinished) at `path`."""
        return making.is_at(Path(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to `path`, whole or not at all. Raises OutputError if that fails."""
        making.copy(self.engine, self._header, self.folder, Path(os.path.realpath(path)))

    # ------------------------------------------------------------------ asking

    def search(
        self, query: Any = None, k: int = 10, *, image: Any = None, minus: Any = None,
        model: Embedder | None = None, where: Any = None, dedupe: float | None = None,
        rerank: int | None = None, exact: bool = False,
    ) -> list[Hit]:  # fmt: skip
        """The k nearest pictures, best first; all of them when k is larger than the index.

        query: words (str), a vector (D,), a picture (Path, Pillow image, bytes, array), or a list
        of such items or (item, weight) pairs. image: a picture more, here a str is a path too.
        minus: words or any such item to stay away from, weight 1 unless given as (item, weight).
        All parts are unit vectors, summed with their weights. Equal scores are ordered by path.
        where: conditions on metadata, such as {"label": "cat"} or "width>=300" (mmfm/index/where).
        dedupe: drop hits whose cosine to a better hit is this or more, such as 0.95.
        rerank: order the best so many by the model's `caption_score` of picture and text.
        exact: compare every row also where a quantised first pass would do.

        Raises DataError for k < 1 or an unusable query, ModelError when a model is needed, missing,
        or not the one that made the index.
        """
        return self._search([self._query(query, image, minus)], k, model, where, dedupe, rerank,
                            exact)[0]  # fmt: skip

    def search_many(
        self, queries: Any, k: int = 10, *, model: Embedder | None = None, where: Any = None,
        dedupe: float | None = None, rerank: int | None = None, exact: bool = False,
    ) -> list[list[Hit]]:  # fmt: skip
        """As `search`, of many queries at once: a list of them, or vectors (Q, D)."""
        if isinstance(queries, (str, bytes)) or not isinstance(queries, (Sequence, np.ndarray)):
            raise DataError("Got one query; search_many wants a list of them.")
        asked = [self._query(query, None, None) for query in queries]
        return self._search(asked, k, model, where, dedupe, rerank, exact) if asked else []

    def needs(self, query: Any = None, image: Any = None, minus: Any = None) -> set[str]:
        """What a model has to embed for a search: "texts", "pictures", both, or nothing."""
        return self._query(query, image, minus).needs

    def duplicates(self, threshold: float = 0.95) -> list[list[str]]:
        """Groups of pictures that are nearly the same, largest first, paths sorted.

        Two belong together when their cosine is at least `threshold`, or others in between connect
        them. Takes the time of as many searches as there are pictures.
        """
        threshold = refine.checked_threshold(threshold)
        groups = refine.near_groups(self.engine, threshold, self._options(exact=True))
        return [[self._absolute(name) for name in group] for group in groups]

    def _query(self, query: Any, image: Any, minus: Any) -> Query:
        known = KnownPictures(self.engine, self.folder)
        return Query(query, image, minus, self.dim, known.vector)

    def _search(
        self, queries: Sequence[Query], k: Any, model: Embedder | None, where: Any,
        dedupe: float | None, rerank: int | None, exact: bool,
    ) -> list[list[Hit]]:  # fmt: skip
        k, model = _count(k, "k"), self.model if model is None else self.fitting(model)
        first = k if rerank is None else max(k, _count(rerank, "rerank"))
        if rerank is not None:
            self._check_rerank(queries, model)
        if dedupe is not None:
            dedupe = refine.checked_threshold(dedupe)
        vectors = query_vectors(queries, model, self.dim)
        options = {**({} if where is None else {"where": where}), **self._options(exact)}
        found = self.engine.search(vectors, first, **options)
        answers = []
        for number, query in enumerate(queries):
            pairs = list(zip(found.ids[number], found.scores[number].tolist()))
            if dedupe is not None:
                pairs = self._distinct(vectors[number], pairs, first, dedupe, options)
            hits = self._hits(pairs)
            if rerank is not None:
                hits = self._reranked(query.texts[0], hits, rerank, model)
            answers.append(hits[:k])
        return answers

    def _options(self, exact: bool) -> dict[str, Any]:
        """Other engines are asked as they are: whether they are exact is theirs to say."""
        return {"exact": True} if exact and isinstance(self.engine, FlatIndex) else {}

    def _distinct(
        self, vector: np.ndarray, pairs: list[tuple[str, float]], k: int, threshold: float,
        options: dict[str, Any],
    ) -> list[tuple[str, float]]:  # fmt: skip
        asked = k
        while True:
            places = refine.distinct(self.engine, [name for name, _ in pairs], threshold, k)
            if len(places) == k or len(pairs) < asked or asked >= len(self):
                return [pairs[place] for place in places]
            asked *= 4
            ids, scores = self.engine.search(vector, asked, **options)
            pairs = list(zip(ids[0], scores[0].tolist()))

    def _hits(self, pairs: Sequence[tuple[str, float]]) -> list[Hit]:
        ids = [name for name, _ in pairs]
        ranks: Sequence[int | None] = [None] * len(ids)
        if isinstance(self.engine, FlatIndex):
            ranks = self.engine.ranks(ids)
        return [
            Hit(self._absolute(name), round(score, _DECIMALS), rank, metadata)
            for (name, score), rank, metadata in zip(pairs, ranks, self.engine.metadata(ids))
        ]

    def _check_rerank(self, queries: Sequence[Query], model: Embedder | None) -> None:
        if any(len(query.texts) != 1 for query in queries):
            raise DataError("rerank compares pictures with a text; ask with exactly one text.")
        if not hasattr(model, "caption_score"):
            raise ModelError("rerank needs a model with a caption head, such as mmfm.load('mini').")

    def _reranked(self, text: str, hits: list[Hit], count: int, model: Any) -> list[Hit]:
        best, rest = hits[:count], hits[count:]
        if not best:
            return hits
        scores = model.caption_score([Path(hit.path) for hit in best], [text] * len(best))
        again = [
            Hit(hit.path, hit.score, hit.row, hit.metadata, round(float(score), _DECIMALS))
            for hit, score in zip(best, scores)
        ]
        return sorted(again, key=lambda hit: -(hit.caption_score or 0.0)) + rest

    # ------------------------------------------------------------------ what is in it

    def __len__(self) -> int:
        return len(self.engine)

    def __repr__(self) -> str:
        return f"Index({len(self)} pictures of {self.folder}, {self.dim}-d, {self.model_name!r})"

    @property
    def vectors(self) -> np.ndarray:
        """(N, D) float32 unit rows in the order of `paths`; where it can be, a memory map."""
        if isinstance(self.engine, FlatIndex):
            return self.engine.matrix()
        return self.engine.vectors(self.engine.ids())

    @property
    def paths(self) -> list[str]:
        """Absolute path of every picture, in the order of their paths inside the folder."""
        return [self._absolute(name) for name in self.engine.ids()]

    @property
    def metadata(self) -> list[dict[str, Any]]:
        """Of every picture, in the order of `paths`."""
        return self.engine.metadata(self.engine.ids())

    @property
    def entries(self) -> list[Entry]:
        """The file of every row, as it was when it was embedded."""
        return [Entry.of_metadata(row) for row in self.metadata]

    @property
    def unreadable(self) -> list[tuple[str, str]]:
        """(path inside the folder, reason) of every picture that could not be read."""
        return [(one.path, one.reason) for one in self._header.unreadable]

    @property
    def dim(self) -> int:
        return self.engine.dim

    @property
    def model_name(self) -> str:
        return self._header.model

    @property
    def backbone_hash(self) -> str:
        return self._header.backbone_hash

    def _absolute(self, name: str) -> str:
        return str(self.folder / name)

    def fitting(self, model: Embedder) -> Embedder:
        """The model. Raises ModelError when the index was made with another."""
        if model.backbone_hash != self.backbone_hash:
            raise ModelError(
                f"The index was made with {self.model_name!r}, backbone {self.backbone_hash[:12]}, "
                f"this model's backbone is {model.backbone_hash[:12]}; load that model or build "
                "the index again."
            )
        return model


def _count(number: Any, name: str) -> int:
    try:
        count = operator.index(number)
    except TypeError:
        raise DataError(f"Got {name}={number!r}; wanted a whole number of results.") from None
    if count < 1:
        raise DataError(f"Got {name}={count}; wanted at least 1 result.")
    return count


def _by_path(
    metadata: Mapping[Any, Mapping[str, Any]], folder: Path
) -> dict[str, Mapping[str, Any]]:
    """By the path inside the folder, however the pictures are named."""
    found = {}
    for name, row in metadata.items():
        if not isinstance(name, (str, os.PathLike)) or not isinstance(row, Mapping):
            raise DataError(f"Got metadata {name!r}: {row!r}; wanted values by name, by path.")
        path = Path(os.path.normpath(folder / name))
        inside = path.relative_to(folder) if path.is_relative_to(folder) else path
        found[inside.as_posix()] = row
    return found


def _some_id(engine: VectorIndex) -> Sequence[str]:
    """One id at most, without reading all where the engine can."""
    if isinstance(engine, FlatIndex):
        return engine.first_ids(1)
    return engine.ids()[:1]
