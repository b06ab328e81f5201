"""The layout of webdataset and img2dataset: samples as runs of members in tar files."""

from __future__ import annotations

import os
import re
import warnings
from array import array
from collections.abc import Collection, Iterator
from functools import cached_property, partial
from pathlib import Path

from mmfm.data.bad import BadSamples, SampleError
from mmfm.data.dataset import ShardDataset
from mmfm.data.layouts.layout import Entry, Layout, key_of

_GOOD_KEY = re.compile(r"[^./\\]+")  # what a shard of ours can hold as it is


class TarLayout(Layout):
    """Tars read through an index; captions may be missing, as in what img2dataset downloads.

    Keys are kept when no two tars share one and none has dots or slashes. A tar that is cut off
    gives the samples before the cut; the rest is reported in `listed_faults`.
    """

    kind = "tars"
    name = "webdataset tars"
    are_shards = True
    lists_quickly = False

    def __init__(self, source: str | Path) -> None:
        """source: what `ShardDataset.open` takes: a folder, a tar, a pattern, a URL."""
        super().__init__(source)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            self._faults = _Faults()
            self.dataset = ShardDataset.open(source, bad=self._faults)
        self.notes += [str(one.message) for one in told]

    def count(self) -> int:
        return len(self.dataset)

    def listed_faults(self) -> list[tuple[SampleError, int]]:
        return self._faults.found

    def _entries(self, places: Collection[int] | None) -> Iterator[Entry | SampleError]:
        for row in range(len(self.dataset)) if places is None else sorted(places):
            try:
                sample = self.dataset.read(row)
            except SampleError as error:
                yield error
                continue
            name = f"{self._shard_names[self.dataset.locate(row)[0]]}/{sample.key}"
            meta = {key: value for key, value in sample.meta.items() if key != "captions"}
            key = sample.key
            if not self._keys_are_unique:
                key = key_of(name)
            elif not _GOOD_KEY.fullmatch(key):
                key = key_of(key)
            if key != sample.key:
                meta.setdefault("path", name)
            yield Entry(key, name, sample.captions, meta, partial(bytes, sample.image))

    @cached_property
    def _shard_names(self) -> list[str]:
        """Names of the tars, with the folders in which they differ."""
        shards = self.dataset.shards
        if len(shards) == 1:
            return [os.path.basename(shards[0])]
        parts = [shard.split("/") for shard in shards]
        shared = next(i for i, level in enumerate(zip(*parts)) if len(set(level)) > 1)
        return ["/".join(names[shared:]) for names in parts]

    @cached_property
    def _keys_are_unique(self) -> bool:
        """8 bytes of memory a sample, and only where there are several tars."""
        if len(self.dataset.shards) == 1:
            return True
        import numpy as np

        hashes = array("q", (hash(self.dataset.key(row)) for row in range(len(self.dataset))))
        return len(np.unique(np.frombuffer(hashes, np.int64))) == len(hashes)


class _Faults(BadSamples):
    """Collects what the indexes tell, to be told to whoever reads the samples."""

    def __init__(self) -> None:
        super().__init__("skip", max_fraction=1.0)
        self.found: list[tuple[SampleError, int]] = []

    def record(self, error: SampleError, data: bytes | None = None, samples: int = 1) -> None:
        self.found.append((error, samples))
