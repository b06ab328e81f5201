"""Vectors of pictures and scores of pairs for the filters, by any backbone, as plain numpy."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from mmfm.data.sample import Sample
from mmfm.data.store import EmbeddingStore, content_key, text_key
from mmfm.errors import ImageError
from mmfm.jobs.embed import identity_of
from mmfm.preprocess.images import load_image

if TYPE_CHECKING:
    from mmfm.model import MMFM

BLOCK = 1024  # samples read, embedded and forgotten at a time
IMAGES = 64  # pictures held decoded


class PairScores:
    """Embeds samples by their row, block by block; vectors are kept in a file, not in memory.

    What `store` holds of this model is taken from there (rounded to float16, cosines differ by
    less than 1e-3); what it does not hold is embedded, and the store is left as it is.
    """

    def __init__(
        self,
        model: MMFM,
        read: Callable[[int], Sample],
        *,
        store: EmbeddingStore | None = None,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> None:
        """read: the sample at a row. store: of this model (`mmfm.jobs.embed.open_store`)."""
        self.model, self.read, self.store = model, read, store
        self.batch_size, self.progress = batch_size, progress
        self._rows = np.empty(0, np.int64)  # whose vectors `scores` has left behind
        self._vectors = np.empty((0, model.embed_dim), np.float32)

    def facts(self) -> dict[str, Any]:
        """What decides the results, for a manifest."""
        identity = identity_of(self.model)
        facts: dict[str, Any] = {
            "model": self.model.name,
            "image_tower": identity.image,
            "text_tower": identity.text,
            "preprocess": identity.preprocess,
        }
        if self.store is not None:
            facts["store"] = str(self.store.folder)
        return facts

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """(n,) float32: cosine of each picture with its sample's first caption.

        NaN where the picture cannot be read or there is no caption. Captions that are too long for
        the text tower are cut, and one warning says so.
        """
        scores = np.full(len(rows), np.nan, np.float32)
        vectors = self._new_table(len(rows))
        with _one_warning(self.model):
            for start in self._starts(rows, "score"):
                samples = [self.read(row) for row in rows[start : start + BLOCK].tolist()]
                part = slice(start, start + len(samples))
                vectors[part] = self._embed_images([sample.image for sample in samples])
                captions = [next(iter(sample.captions), "").strip() for sample in samples]
                fine = vectors[part].any(axis=1) & np.array([bool(text) for text in captions])
                cosines = (vectors[part] * self._embed_texts(captions)).sum(axis=1)
                scores[part] = np.where(fine, cosines, np.nan)
        self._rows, self._vectors = rows, vectors
        return scores

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """(n, D) float32 of unit length, of the pictures; zeros where one cannot be read."""
        vectors = self._new_table(len(rows))
        known = np.isin(rows, self._rows)
        for start in self._starts(rows, "embed"):
            part = rows[start : start + BLOCK]
            if known[start : start + BLOCK].all():
                found = self._vectors[np.searchsorted(self._rows, part)]
            else:
                found = self._embed_images([self.read(row).image for row in part.tolist()])
            vectors[start : start + len(part)] = found
        return vectors

    def _starts(self, rows: np.ndarray, what: str) -> tqdm[int]:
        return tqdm(range(0, len(rows), BLOCK), what, disable=not self.progress)

    def _new_table(self, count: int) -> np.ndarray:
        """(count, D) of zeros in a file without a name, which goes when nobody holds the table."""
        shape = (count, self.model.embed_dim)
        if not count:
            return np.zeros(shape, np.float32)
        with tempfile.TemporaryFile() as file:
            return np.memmap(file, np.float32, "w+", shape=shape)

    def _embed_images(self, pictures: list[bytes]) -> np.ndarray:
        vectors = np.zeros((len(pictures), self.model.embed_dim), np.float32)
        missing = np.ones(len(pictures), bool)
        if self.store is not None:
            keys = [content_key(data) for data in pictures]
            missing = ~self.store.has(keys)
            if not missing.all():
                held = [key for key, absent in zip(keys, missing) if not absent]
                vectors[~missing] = self.store.pooled(held)
        for places in np.array_split(np.flatnonzero(missing), -(-len(pictures) // IMAGES)):
            images = {place: _image(pictures[place]) for place in places.tolist()}
            seen = {place: image for place, image in images.items() if image is not None}
            if seen:
                found = self.model.embed_images(list(seen.values()), batch_size=self.batch_size)
                vectors[list(seen)] = found
        return vectors

    def _embed_texts(self, captions: list[str]) -> np.ndarray:
        """(n, D), zeros for empty captions."""
        vectors = np.zeros((len(captions), self.model.embed_dim), np.float32)
        places = np.flatnonzero([bool(text) for text in captions])
        if self.store is not None and len(places):
            held = self.store.has([text_key(captions[place]) for place in places], "text")
            if held.any():
                known = places[held]
                vectors[known] = self.store.texts([captions[place] for place in known])
                places = places[~held]
        # why: short beside short, since a batch is as long as its longest text
        places = places[np.argsort([len(captions[place]) for place in places], kind="stable")]
        if len(places):
            texts = [captions[place] for place in places]
            vectors[places] = self.model.embed_texts(texts, batch_size=self.batch_size)
        return vectors


def _image(data: bytes) -> Image.Image | None:
    try:
        return load_image(data)
    except ImageError:
        return None


@contextlib.contextmanager
def _one_warning(model: MMFM) -> Iterator[None]:
    """Of all that a model says on captions it cuts, one sentence at the end."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield
    cut = False
    for one in said:
        if str(one.message).startswith("Too long"):
            cut = True
        else:
            warnings.warn(one.message, one.category, stacklevel=3)
    if cut:
        warnings.warn(
            f"some captions are longer than the text tower of {model.name} reads; they were scored"
            " by their beginning",
            stacklevel=3,
        )
