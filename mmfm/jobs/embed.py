"""Fill an embedding store from shards, in this process; mmfm.jobs.ray does it on many machines."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfm.data.bad import BadSamples
from mmfm.data.dataset import ShardDataset
from mmfm.data.remote import is_remote
from mmfm.data.store import EmbeddingStore, Identity
from mmfm.errors import DataError
from mmfm.jobs.shard import Report, check_kinds, embed_shard, stamp

if TYPE_CHECKING:
    from mmfm.model import MMFM


def identity_of(model: MMFM) -> Identity:
    """Whose embeddings a model's are. Reads all weights, about 0.5 s for a ViT-B/32."""
    backbone = model.backbone
    return Identity(
        image=backbone.image_hash(), preprocess=model.preprocess.hash, text=backbone.text_hash()
    )


def open_store(folder: str | os.PathLike[str], model: MMFM) -> EmbeddingStore:
    """The part of a store that holds this model's embeddings; it may be empty."""
    return EmbeddingStore(folder, identity_of(model), model.name)


def embed_shards(
    model: MMFM,
    source: Any,
    store: EmbeddingStore | str | os.PathLike[str],
    *,
    kinds: Sequence[str] = ("pooled",),
    batch_size: int = 64,
    num_workers: int = 0,
    on_bad: BadSamples | None = None,
    check: bool = False,
    progress: bool = False,
) -> Report:
    """Embed every sample of `source` in this process.

    source: a `ShardDataset` or what `ShardDataset.open` takes. kinds: of "pooled" (vectors of
    pictures), "grid" (image tokens), "text" (vectors of all captions). num_workers: threads that
    decode pictures ahead of the tower. on_bad: what becomes of samples that cannot be used;
    default: the first one stops the run. check: compare every stored byte with its hash first.

    Raises SampleError or DataError as `on_bad` says, OutputError when the store cannot be written.
    """
    dataset, store = opened(source, on_bad), store_of(store, model)
    total = begin(store, kinds, check)
    with progress_bar(len(dataset), progress) as bar:
        for shard in range(len(dataset.shards)):
            done = embed_shard(model, dataset, shard, store, kinds=kinds, batch_size=batch_size,
                               num_workers=num_workers)  # fmt: skip
            account(done, on_bad)
            total.add(done)
            bar.update(done.samples)
    return total


def image_keys(dataset: ShardDataset, store: EmbeddingStore) -> np.ndarray:
    """(N, 32) uint8: the store's key of every picture of a data set that was embedded.

    Rows of zeros are pictures that could not be used. Raises DataError when a shard is not known.
    """
    found = []
    for name in opened(dataset).shards:
        known = store.shard_keys(name, stamp(name))
        if known is None:
            raise DataError(
                f"{name} is not in {store.folder}, or changed since; run `mmfm data embed`."
            )
        found.append(known.images)
    return np.concatenate(found)


def begin(store: EmbeddingStore, kinds: Sequence[str], check: bool) -> Report:
    """Make the store ready for writing; the report of a run so far."""
    damaged = store.claim(check_kinds(kinds), check)
    return Report(damaged={str(k): v for k, v in damaged.items()}, identity=store.identity)


def account(report: Report, on_bad: BadSamples | None) -> None:
    """Tell the policy of a shard's bad samples; without a policy the first one is raised."""
    for error in report.bad:
        (on_bad or BadSamples()).record(error)
    if on_bad is not None:
        on_bad.check()


def opened(source: Any, on_bad: BadSamples | None = None) -> ShardDataset:
    """A data set whose local paths are absolute, and all of whose samples `on_bad` counts."""
    if isinstance(source, ShardDataset):
        dataset = copy.copy(source)
        if on_bad is not None:
            on_bad.seen(len(dataset))
    else:
        dataset = ShardDataset.open(source, bad=on_bad)
    dataset.shards = [s if is_remote(s) else os.path.abspath(s) for s in dataset.shards]
    return dataset


def store_of(store: EmbeddingStore | str | os.PathLike[str], model: MMFM) -> EmbeddingStore:
    return store if isinstance(store, EmbeddingStore) else open_store(store, model)


def progress_bar(total: int, shown: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="embedding", unit="sample", disable=not shown)
