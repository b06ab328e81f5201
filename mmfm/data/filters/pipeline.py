"""Shards in, filters in a fixed order, shards out, with an account of what went and why.

One reading measures all samples (on `workers` processes), each charged to the first filter that
drops it; then the filters that need the whole set decide, one after the other, on what is left;
a second reading writes what stays. The result is the same for any number of processes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mmfm import __version__
from mmfm.data.bad import BadSamples
from mmfm.data.dataset import ShardDataset
from mmfm.data.filters.examine import CHUNK, examined
from mmfm.data.filters.filter import Drop, Filter, MeasuredFilter, SetFilter
from mmfm.data.filters.manifest import (
    Census,
    DropList,
    describe_shards,
    shard_sha256,
    write_manifest,
)
from mmfm.data.filters.report import Account, Report
from mmfm.data.sample import Sample
from mmfm.data.shards import write_shards
from mmfm.errors import DataError, OutputError

UNREADABLE = "readable"  # the filter, before all others, that every sample must pass
SHARDS, MANIFEST, DROPPED = "shards", "manifest.json", "dropped.jsonl"


def filter_shards(
    dataset: ShardDataset,
    filters: Sequence[Filter],
    output: str | os.PathLike[str] | None,
    *,
    bad: BadSamples,
    workers: int = 0,
    max_count: int = 2000,
    command: dict[str, Any] | None = None,
    rekey: bool = False,
    progress: bool = False,
) -> Report:
    """Filter a data set into `output`/shards, with manifest.json and dropped.jsonl beside.

    Filters that look at single samples come before those that look at the set; else the order is
    that of `filters`. output: a folder that does not exist or is empty; it appears when all is
    written. None only counts. bad: the one that `dataset` was opened with. max_count: samples in a
    shard. command: settings to put on record. rekey: number the samples that stay; their former
    key goes to the meta field `source_key`.

    Raises OutputError for a folder in use, DataError when more samples than `bad` allows cannot be
    read, or when keys come twice and `rekey` is off.
    """
    run = _Run(dataset, sorted(filters, key=lambda one: isinstance(one, SetFilter)), bad, progress)
    if output is None:
        return run.report(None, workers)
    folder = expect_free(output)
    unfinished = folder.with_name(f".{folder.name}.unfinished-{os.getpid()}")
    try:
        if not rekey:
            _expect_own_keys(dataset)
        unfinished.mkdir(parents=True)
        report = run.report(unfinished, workers, max_count, rekey)
        manifest = {
            "mmfm": __version__,
            "command": command or {},
            "sources": describe_shards(dataset.shards, dataset.counts.tolist()),
            **report.facts(),
            "shards": _written(unfinished / SHARDS, report.kept, max_count),
        }
        write_manifest(unfinished / MANIFEST, manifest)
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return report


class EditedSamples:
    """Samples as they are kept: without the captions that the filters took out."""

    def __init__(self, dataset: ShardDataset, filters: Sequence[Filter]) -> None:
        self.dataset, self.filters = dataset, filters

    def read(self, row: int) -> Sample:
        """Raises SampleError."""
        sample = self.dataset.read(row)
        for one in self.filters:
            sample = one.edit(sample)
        return sample


class _Run:
    """One filtering: which rows are still in, and what each filter did."""

    def __init__(
        self, dataset: ShardDataset, filters: Sequence[Filter], bad: BadSamples, progress: bool
    ) -> None:
        self.dataset, self.filters, self.bad, self.progress = dataset, filters, bad, progress
        names = [(UNREADABLE, {}), *((one.name, one.settings()) for one in filters)]
        self.accounts = [Account(name, settings) for name, settings in names]
        self.alive = np.ones(len(dataset), bool)
        self.licences: Counter[str] = Counter()
        self.census = Census()
        for one in filters:
            if isinstance(one, MeasuredFilter):
                one.forget()

    def report(
        self, folder: Path | None, workers: int, max_count: int = 1, rekey: bool = False
    ) -> Report:
        """Do it all. folder: where shards and the list of drops go; None only counts."""
        found = len(self.dataset) + len(self.bad.records)
        with DropList(folder / DROPPED if folder else None) as drops:
            self._first_reading(drops, workers)
            for number, one in enumerate(self.filters):
                if isinstance(one, SetFilter):
                    for row, drop in one.judge_all(np.flatnonzero(self.alive)):
                        self._charge(drops, row, number, drop)
        before = found
        for account in self.accounts:
            account.before = before
            before -= account.dropped
        rows = np.flatnonzero(self.alive)
        kept = self._kept(tqdm(rows, "write" if folder else "count", disable=not self.progress))
        if folder is None:
            deque(kept, maxlen=0)
        else:
            write_shards(_numbered(kept) if rekey else kept, folder / SHARDS, max_count)
        census = self.census
        said = [one.warning(census.fields, census.count) for one in self.filters]
        warnings = [words for words in said if words]
        return Report(found, census.count, self.accounts, self.licences, census, warnings)

    def _first_reading(self, drops: DropList, workers: int) -> None:
        for record in self.bad.records:  # faults that the index already knew
            self.accounts[0].reasons[record["cause"]] += 1
            drop = Drop(record["cause"], record["message"])
            drops.add(record["key"], record["shard"], UNREADABLE, drop)
        chunks = examined(self.dataset, self.filters, workers)
        total = -(-len(self.dataset) // CHUNK)
        for chunk in tqdm(chunks, "examine", total, disable=not self.progress):
            self.licences.update(chunk.licences)
            for row, error in chunk.errors:
                self.alive[row] = False
                self.bad.record(error)
                self.accounts[0].reasons[error.cause] += 1
                drops.add(error.key, error.shard, UNREADABLE, Drop(error.cause, str(error)))
            for row, number, drop in chunk.drops:
                self._charge(drops, row, number, drop)
            for number, (rows, measures) in chunk.measures.items():
                one = self.filters[number]
                assert isinstance(one, MeasuredFilter)
                one.see(rows, measures)
        self.bad.check()

    def _charge(self, drops: DropList, row: int, number: int, drop: Drop) -> None:
        self.alive[row] = False
        self.accounts[number + 1].reasons[drop.reason] += 1
        of = None if drop.of is None else self.dataset.key(drop.of)
        shard = self.dataset.shards[self.dataset.locate(row)[0]]
        drops.add(self.dataset.key(row), shard, self.filters[number].name, drop, of)

    def _kept(self, rows: Iterable[int]) -> Iterator[Sample]:
        for row in rows:
            sample = self.dataset.read(int(row))
            for account, one in zip(self.accounts[1:], self.filters, strict=True):
                before = len(sample.captions)
                sample = one.edit(sample)
                account.captions += before - len(sample.captions)
            self.census.add(sample)
            yield sample


def _numbered(samples: Iterable[Sample]) -> Iterator[Sample]:
    for number, sample in enumerate(samples):
        meta = {"source_key": sample.key, **sample.meta}  # the first key is the one kept
        yield replace(sample, key=f"{number:09d}", meta=meta)


def _expect_own_keys(dataset: ShardDataset) -> None:
    """Raise DataError, before any work, for keys that no set of shards can hold."""
    marks = np.empty(len(dataset), np.int64)
    for row in range(len(dataset)):
        key = dataset.key(row)
        if set(key) & set("./\\"):
            raise DataError(f"sample key {key!r} has a dot or slash; add --rekey to number samples")
        digest = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest()
        marks[row] = int.from_bytes(digest, "little", signed=True)
    order = np.argsort(marks, kind="stable")
    again = np.flatnonzero(np.diff(marks[order]) == 0)
    if len(again):
        key = dataset.key(int(order[again[0] + 1]))
        raise DataError(
            f"{len(again)} sample keys come twice, such as {key!r}; add --rekey to number samples"
        )


def expect_free(folder: str | os.PathLike[str]) -> Path:
    """`folder`, absolute, when it is new or empty; else OutputError: nothing is written over."""
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} is in use; give a folder that is new or empty")
    return folder


def _written(folder: Path, kept: int, max_count: int) -> list[dict[str, Any]]:
    """Hashes and counts of the shards that were written, named as they lie in the output."""
    shards = sorted(folder.glob("*.tar"))
    return [
        {
            "shard": f"{SHARDS}/{path.name}",
            "sha256": shard_sha256(str(path)),
            "samples": min(max_count, kept - number * max_count),
        }
        for number, path in enumerate(shards)
    ]
