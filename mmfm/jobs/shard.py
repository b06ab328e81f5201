"""One shard into the store: the unit of work, whatever engine hands it out.

Every sample is looked at, what the store does not hold is embedded, and the result appears at once.
Called again, it does nothing; killed, it leaves the store as it was.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmfm.data.bad import SampleError
from mmfm.data.dataset import ShardDataset
from mmfm.data.keyed import RowWriter, as_keys, file_stem
from mmfm.data.store import (
    KINDS,
    EmbeddingStore,
    Identity,
    ShardKeys,
    content_key,
    no_keys,
    normalise,
    text_key,
)
from mmfm.data.tar.file import open_tar
from mmfm.errors import ImageError, InputError, ModelError
from mmfm.preprocess.images import load_image

if TYPE_CHECKING:
    from mmfm.model import MMFM

_TEXTS = 4096  # captions embedded in one go, sorted by length


@dataclass
class Report:
    """What was done: shards and samples looked at, rows embedded by kind, and the bad samples.

    Samples that were known from an earlier run count in `samples` and nowhere else. damaged: files
    of the store that were removed and made again, with the reason. identity: of the model.
    """

    shards: int = 0
    samples: int = 0
    embedded: Counter[str] = field(default_factory=Counter)
    bad: list[SampleError] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    identity: Identity | None = None

    def add(self, other: Report) -> None:
        self.shards += other.shards
        self.samples += other.samples
        self.embedded.update(other.embedded)
        self.bad += other.bad

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types; of the bad samples their number by cause."""
        causes = Counter(error.cause for error in self.bad)
        return {"shards": self.shards, "samples": self.samples, "embedded": dict(self.embedded),
                "bad": dict(causes), "damaged": list(self.damaged)}  # fmt: skip


def embed_shard(
    model: MMFM,
    dataset: ShardDataset,
    shard: int,
    store: EmbeddingStore,
    *,
    kinds: Sequence[str] = ("pooled",),
    batch_size: int = 64,
    num_workers: int = 0,
) -> Report:
    """Put what is missing of one shard into the store; bad samples are left out and reported.

    The store must be ready (`EmbeddingStore.claim`). A shard that was seen before and did not
    change is not read again, except its bad samples.
    Vectors equal `model.embed_images` and `model.embed_texts` up to half precision.
    """
    kinds = check_kinds(kinds)
    store.refresh()
    count = int(dataset.counts[shard])
    first = int(dataset.counts[:shard].sum())
    name = dataset.shards[shard]
    version = stamp(name)
    known = _Known.of(store.shard_keys(name, version), count, "text" in kinds)
    places = np.flatnonzero(known.unsettled(store, kinds))
    report = Report(shards=1, samples=count)
    if not len(places):
        return report
    look = partial(_look, model, dataset, store, [kind for kind in kinds if kind != "text"])
    with contextlib.ExitStack() as stack:
        stem = file_stem(name)
        writers = {
            kind: _Writer(store, kind, stack.enter_context(store.rows(kind).writing(stem, {})))
            for kind in kinds
        }
        pending: list[_Seen] = []
        texts: dict[str, str] = {}
        rows = [first + int(place) for place in places]
        for place, seen in zip(places, _in_order(look, rows, num_workers, 2 * batch_size)):
            if seen.error is not None:
                report.bad.append(seen.error)
            known.take(int(place), seen)
            texts.update((text_key(text), normalise(text)) for text in seen.captions)
            if seen.pixels is not None:
                pending.append(seen)
            if len(pending) == batch_size:
                _embed_images(model, pending, writers)
                pending = []
        if pending:
            _embed_images(model, pending, writers)
        if "text" in kinds:
            _embed_texts(model, texts, writers["text"], batch_size)
        report.embedded.update({kind: writer.count for kind, writer in writers.items()})
    store.remember(name, version, known.packed())
    return report


def check_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    """Raises InputError on none and on an unknown kind."""
    if not kinds or set(kinds) - set(KINDS):
        raise InputError(f"kinds is {kinds!r}, wanted some of {', '.join(KINDS)}")
    return tuple(kinds)


def stamp(shard: str) -> str:
    """Changes when the file does; no sample is read for it."""
    tar = open_tar(shard)
    return f"{tar.size} {tar.stamp}"


# ---------------------------------------------------------------------- one sample


@dataclass(frozen=True)
class _Seen:
    """A sample as read: its key, pixels if they are needed, captions, or what is wrong with it."""

    key: np.ndarray | None = None  # (32,)
    pixels: np.ndarray | None = None
    captions: tuple[str, ...] = ()
    error: SampleError | None = None


def _look(
    model: MMFM, dataset: ShardDataset, store: EmbeddingStore, kinds: list[str], row: int
) -> _Seen:
    try:
        sample = dataset.read(row)
    except SampleError as error:
        return _Seen(error=error)
    captions = tuple(text for text in sample.captions if text.strip())
    key = as_keys([content_key(sample.image)])
    pixels = None
    if not all(store.has(key, kind)[0] for kind in kinds):
        try:
            pixels = model.preprocess(load_image(sample.image))
        except ImageError as reason:
            shard = dataset.shards[dataset.locate(row)[0]]
            message = f"{shard}: sample {sample.key!r}: {reason}"
            bad = SampleError(message, shard, sample.key, "not-an-image")
            return _Seen(captions=captions, error=bad)
    return _Seen(key[0], pixels, captions)


def _in_order(
    function: Callable[[int], _Seen], rows: Iterable[int], num_workers: int, ahead: int
) -> Iterator[_Seen]:
    """function(row) of every row, in order; `num_workers` threads work up to `ahead` rows ahead."""
    if not num_workers:
        yield from map(function, rows)
        return
    with ThreadPoolExecutor(num_workers) as pool:
        waiting: deque = deque()
        try:
            for row in rows:
                waiting.append(pool.submit(function, row))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class _Known:
    """The contents of a shard as far as they are known; see `ShardKeys`."""

    def __init__(self, images: np.ndarray, captions: list[np.ndarray | None] | None) -> None:
        self.images = images
        self.captions = captions  # per row (n, 32), or None where not looked at

    @classmethod
    def of(cls, note: ShardKeys | None, count: int, with_texts: bool) -> _Known:
        if note is None or len(note.images) != count:
            note = ShardKeys(no_keys(count))
        captions: list[np.ndarray | None] | None = None
        if note.captions is not None and note.counts is not None:
            captions = list(np.split(note.captions, np.cumsum(note.counts)[:-1]))
        elif with_texts:
            captions = [None] * count
        return cls(note.images.copy(), captions)

    def unsettled(self, store: EmbeddingStore, kinds: Sequence[str]) -> np.ndarray:
        """(N,) bool: rows that must be read, because something of them is not in the store."""
        missing = np.logical_not(self.images.any(axis=1))
        for kind in kinds:
            if kind != "text":
                missing |= ~store.has(self.images, kind)
            elif self.captions is not None:
                missing |= np.array([keys is None for keys in self.captions])
                asked = [no_keys(0) if keys is None else keys for keys in self.captions]
                rows = np.repeat(np.arange(len(asked)), [len(keys) for keys in asked])
                missing[rows[~store.has(np.concatenate(asked), "text")]] = True
        return missing

    def take(self, place: int, seen: _Seen) -> None:
        if seen.key is not None:
            self.images[place] = seen.key
        if self.captions is not None:
            self.captions[place] = as_keys([text_key(text) for text in seen.captions])

    def packed(self) -> ShardKeys:
        if self.captions is None or any(keys is None for keys in self.captions):
            return ShardKeys(self.images)
        counts = np.array([len(keys) for keys in self.captions if keys is not None], np.int32)
        return ShardKeys(self.images, np.concatenate([no_keys(0), *self.captions]), counts)


# ---------------------------------------------------------------------- one batch


class _Writer:
    """Rows of one kind for the file of one shard; what is in the store already is left out."""

    def __init__(self, store: EmbeddingStore, kind: str, writer: RowWriter) -> None:
        self._store = store
        self._kind = kind
        self._writer = writer
        self._written: set[bytes] = set()

    @property
    def count(self) -> int:
        return self._writer.count

    def wants(self, keys: np.ndarray) -> np.ndarray:
        """(n,) bool: keys that are neither in the store nor came before, here or in `keys`."""
        wanted = ~self._store.has(keys, self._kind)
        for row in np.flatnonzero(wanted):
            key = keys[row].tobytes()
            wanted[row] = key not in self._written
            self._written.add(key)
        return wanted

    def add(self, keys: np.ndarray, rows: np.ndarray) -> None:
        if not np.isfinite(rows).all() or np.abs(rows).max(initial=0) > 65_000:
            raise ModelError(
                f"The model gave NaN or numbers too large for half precision ({self._kind}); its "
                "weights are damaged, or run it on another device."
            )
        if len(rows):
            self._writer.add(keys, rows.astype(np.float16))


@torch.inference_mode()
def _embed_images(model: MMFM, batch: list[_Seen], writers: dict[str, _Writer]) -> None:
    keys = np.stack([seen.key for seen in batch if seen.key is not None])
    pixels = np.stack([seen.pixels for seen in batch if seen.pixels is not None])
    wanted = {kind: writer.wants(keys) for kind, writer in writers.items() if kind != "text"}
    rows = np.flatnonzero(np.any(list(wanted.values()), axis=0))
    if not len(rows):  # all of them came before in this shard
        return
    said = model.backbone.encode_images(torch.from_numpy(pixels[rows]).to(model.device))
    arrays = {"pooled": said.pooled, "grid": said.tokens}
    for kind, mask in wanted.items():
        array = arrays[kind]
        if array is None:
            raise ModelError(
                f"{model.name} gives no grid of image tokens; embed without grids, or take a plain "
                "ViT."
            )
        writers[kind].add(keys[mask], array.float().cpu().numpy()[mask[rows]])


def _embed_texts(model: MMFM, texts: dict[str, str], writer: _Writer, batch_size: int) -> None:
    keys = list(texts)
    new = writer.wants(as_keys(keys)) if keys else np.zeros(0, bool)
    # short beside short: a batch is as long as its longest text
    fresh = sorted((key for key, is_new in zip(keys, new) if is_new), key=lambda k: len(texts[k]))
    for start in range(0, len(fresh), _TEXTS):
        part = fresh[start : start + _TEXTS]
        said = model.embed_texts([texts[key] for key in part], batch_size=batch_size)
        writer.add(as_keys(part), said)
