"""The first reading of a set: samples to the filters, in this process or in several."""

from __future__ import annotations

import multiprocessing
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from mmfm.data.bad import SampleError
from mmfm.data.dataset import ShardDataset
from mmfm.data.filters.filter import Drop, Filter, MeasuredFilter, SampleFilter
from mmfm.data.filters.manifest import licence
from mmfm.errors import ImageError

CHUNK = 256  # rows that a process examines at a time


@dataclass
class Chunk:
    """What a process found in some rows. drops: (row, number of the filter, why)."""

    errors: list[tuple[int, SampleError]] = field(default_factory=list)
    drops: list[tuple[int, int, Drop]] = field(default_factory=list)
    measures: dict[int, tuple[list[int], list[Any]]] = field(default_factory=dict)
    licences: Counter[str] = field(default_factory=Counter)


def examine(dataset: ShardDataset, filters: Sequence[Filter], rows: range) -> Chunk:
    """Read some rows and hand each sample to the filters, in order, until one drops it.

    A pure function of its arguments: nothing is remembered in the filters.
    """
    chunk = Chunk()
    for row in rows:
        try:
            sample = dataset.read(row)
        except SampleError as error:
            chunk.errors.append((row, error))
            continue
        chunk.licences[licence(sample.meta)] += 1
        for number, one in enumerate(filters):
            drop: Drop | None = None
            try:
                if isinstance(one, SampleFilter):
                    drop = one.judge(sample)
                elif isinstance(one, MeasuredFilter):
                    seen, values = chunk.measures.setdefault(number, ([], []))
                    values.append(one.measure(sample))
                    seen.append(row)
            except ImageError as error:
                drop = Drop("not-an-image", str(error))
            if drop is not None:
                chunk.drops.append((row, number, drop))
                break
            sample = one.edit(sample)
    return chunk


def examined(dataset: ShardDataset, filters: Sequence[Filter], workers: int) -> Iterator[Chunk]:
    """Chunks in order of their rows, few at a time, whoever made them."""
    parts = [
        range(start, min(start + CHUNK, len(dataset))) for start in range(0, len(dataset), CHUNK)
    ]
    if workers < 1:
        for part in parts:
            yield examine(dataset, filters, part)
        return
    # why: a set filter that needs no sample may hold a model, which must not be sent about
    sent = [
        one if isinstance(one, SampleFilter | MeasuredFilter) else _Passing() for one in filters
    ]
    # why: spawn, since the caller may run threads of torch, which a fork does not survive
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _start, (dataset, sent)
    ) as pool:
        waiting: deque[Future[Chunk]] = deque()
        for part in parts:
            waiting.append(pool.submit(_examine_here, part))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _Passing(Filter):
    """Stands in a process in the place of a filter that has nothing to do there."""

    name = "passing"

    def settings(self) -> dict[str, Any]:
        return {}


_HERE: list[Any] = []  # of a process of the pool: its data set and filters


def _start(dataset: ShardDataset, filters: Sequence[Filter]) -> None:
    _HERE[:] = [dataset, filters]


def _examine_here(rows: range) -> Chunk:
    return examine(_HERE[0], _HERE[1], rows)
