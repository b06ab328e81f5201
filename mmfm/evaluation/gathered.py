"""One pass over samples: of each its vector, captions and label are kept, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmfm.data.bad import BadSamples, SampleError
from mmfm.data.sample import Sample
from mmfm.data.store import EmbeddingStore, content_key
from mmfm.errors import DataError, ImageError

BLOCK = 256  # samples held at a time, as encoded bytes
_FROM_CAPTION = "caption"


@dataclass
class Gathered:
    """N samples. keys: what the data calls them. images: (N, D) float32, unit length."""

    keys: list[str] = field(default_factory=list)
    captions: list[tuple[str, ...]] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    parts: list[np.ndarray] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def images(self) -> np.ndarray:
        if len(self.parts) != 1:
            self.parts = [np.concatenate(self.parts)]
        return self.parts[0]

    def labelled(self, keep: Callable[[str], bool] | None = None) -> tuple[np.ndarray, list[str]]:
        """Vectors and labels of the samples that have one, and whose key `keep` takes."""
        rows = [
            row for row, label in enumerate(self.labels)
            if label is not None and (keep is None or keep(self.keys[row]))
        ]  # fmt: skip
        return self.images[rows], [str(self.labels[row]) for row in rows]


def gather(
    model: Any, samples: Iterator[Sample], *, label: str, names: Sequence[str] | None = None,
    store: EmbeddingStore | None = None,
    on_bad: BadSamples | None = None, watch: Sequence[Callable[[list[Sample]], None]] = (),
) -> Gathered:  # fmt: skip
    """Read, embed and forget.

    label: the field of meta that names what a picture shows, or "caption" for the first caption.
    names: of the classes, where that field holds their number from 0.
    store: vectors of this model that are already there; it is not changed. watch: called with every
    block of samples whose pictures could be read; the others go to `on_bad` (default: the first
    raises).
    """
    found = Gathered()
    for block in _blocks(samples):
        vectors = _embed(model, block, store, on_bad or BadSamples())
        block = [sample for sample, vector in zip(block, vectors) if vector is not None]
        if not block:
            continue
        found.parts.append(np.stack([vector for vector in vectors if vector is not None]))
        found.keys += [key_of(sample) for sample in block]
        found.captions += [sample.captions for sample in block]
        found.labels += [label_of(sample, label, names) for sample in block]
        for look in watch:
            look(block)
    return found


def key_of(sample: Sample) -> str:
    """What the data calls a sample: meta["key"], by which splits are made, or its key."""
    return str(sample.meta.get("key", sample.key))


def label_of(sample: Sample, field: str, names: Sequence[str] | None = None) -> str | None:
    """What `field` says the picture shows; None when it says nothing.

    names: of the classes by number. Raises DataError when the number is none of theirs.
    """
    value = next(iter(sample.captions), None) if field == _FROM_CAPTION else sample.meta.get(field)
    if value is None or not str(value).strip():
        return None
    if names is None:
        return str(value)
    if not str(value).isdecimal() or int(value) >= len(names):
        raise DataError(
            f"{key_of(sample)} has {value!r} for {field}, wanted a number below the {len(names)} of"
            " the class names"
        )
    return names[int(value)]


def _blocks(samples: Iterator[Sample]) -> Iterator[list[Sample]]:
    block: list[Sample] = []
    for sample in samples:
        block.append(sample)
        if len(block) == BLOCK:
            yield block
            block = []
    if block:
        yield block


def _embed(
    model: Any, block: list[Sample], store: EmbeddingStore | None, on_bad: BadSamples
) -> list[np.ndarray | None]:
    keys = [content_key(sample.image) for sample in block]
    known = {} if store is None else store.found(keys)
    missing = [row for row, key in enumerate(keys) if key not in known]
    fresh = dict(zip(missing, _read(model, [block[row] for row in missing], on_bad)))
    return [fresh[row] if row in fresh else known[key] for row, key in enumerate(keys)]


def _read(model: Any, block: list[Sample], on_bad: BadSamples) -> list[np.ndarray | None]:
    """Vectors, None for pictures that cannot be read."""
    if not block:
        return []
    try:
        return list(model.embed_images([sample.image for sample in block], precision="fp32"))
    except ImageError as error:
        if len(block) > 1:
            half = len(block) // 2
            return _read(model, block[:half], on_bad) + _read(model, block[half:], on_bad)
        told = SampleError(f"{key_of(block[0])}: {error}", "", key_of(block[0]), "not-an-image")
        on_bad.record(told, block[0].image)
        return [None]
