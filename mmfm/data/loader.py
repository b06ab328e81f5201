"""Batches of decoded pictures for a training, any step of which can be asked for at once."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import signal
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from multiprocessing import resource_tracker
from typing import NamedTuple, Protocol

import numpy as np

from mmfm.data.bad import BadSamples
from mmfm.data.batch import Batch
from mmfm.data.cache import CachedSquares, PackedCache
from mmfm.data.crop import RandomCrop
from mmfm.data.dataset import ShardDataset
from mmfm.data.squares import BadRow, Squares
from mmfm.errors import DataError, InputError


class RowOrder(Protocol):
    """Which rows a step sees on this rank: `Order`, `ShuffledShards`."""

    share: tuple[int, int]  # first and last place of this rank in the global batch

    def batch(self, step: int) -> np.ndarray:
        """(B,) int64 rows of step `step`."""


class Loader:
    """`batch(step)` for any step, the same for any number of worker processes, ranks and restarts.

    A batch depends on the data set, the order and the step alone, so a run that stopped goes on by
    asking for the next step. With `num_workers`, torch's DataLoader reads the steps that follow in
    processes of its own, a whole batch each; asking for another step starts them anew there. They
    come from a fork server, or are spawned, which is safe beside torch's threads; a script that
    uses them must keep its own start under `if __name__ == "__main__"`.

    A bad sample's place is taken by the next good row (`Squares.batch`), and it is told to `on_bad`
    once, here in the main process; without `on_bad` it is raised as SampleError.
    """

    def __init__(
        self,
        dataset: ShardDataset | PackedCache,
        order: RowOrder,
        *,
        image_size: int,
        num_workers: int = 0,
        on_bad: BadSamples | None = None,
        augment: RandomCrop | None = None,
        mode: str = "shortest",
        margin: float = 2.0,
        prefetch: int = 2,
    ) -> None:
        """image_size: of the batches; a cache gives its own size, or crops of it with `augment`.
        mode, margin: see `decode_square`; a cache was made with its own. prefetch: batches that
        each worker reads ahead. Raises DataError."""
        if num_workers < 0 or prefetch < 1:
            raise DataError(
                f"Got num_workers={num_workers}, prefetch={prefetch}; wanted at least 0 and 1."
            )
        self.on_bad = on_bad or BadSamples("raise")
        source: Squares | CachedSquares
        if isinstance(dataset, PackedCache):
            source = dataset.squares(image_size, mode, cropped=augment is not None)
        else:
            stop = self.on_bad.on_error == "raise"
            source = Squares(dataset, image_size, mode=mode, margin=margin, stop_at_first=stop)
        self._dataset = dataset
        self._steps = _Steps(source, order, augment)
        self._num_workers = num_workers
        self._prefetch = prefetch
        self._known: set[int] = set()  # bad rows already told to on_bad
        self._next = -1  # the step that the workers give next
        self._ahead: Iterator[_Work] | None = None
        self._at_exit = partial(_close, weakref.ref(self))

    def batch(self, step: int) -> Batch:
        """The batch of step `step`, counted from 0.

        Raises SampleError for a bad sample when the policy is to raise, DataError when too many are
        bad or a worker died.
        """
        work = self._steps[step] if not self._num_workers else self._from_workers(step)
        new = {one.row: one for one in work.bad if one.row not in self._known}
        self.on_bad.seen(len(new) + (len(work.batch) if work.batch else 0))
        for row, error, data in new.values():
            self.on_bad.record(error, data)
            self._known.add(row)
        if work.batch is None:
            self.close()
            assert work.failure is not None  # a bad row that ends its batch was raised by record
            raise work.failure
        return work.batch

    def fingerprint(self) -> str:
        """Changes when the data does; a training asks before it goes on from a checkpoint."""
        return self._dataset.fingerprint()

    def close(self) -> None:
        """End the workers; the next `batch` starts new ones."""
        self._ahead = None  # torch's iterator ends its processes when it is let go
        atexit.unregister(self._at_exit)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _from_workers(self, step: int) -> _Work:
        if self._ahead is None or step != self._next:
            self.close()
            self._ahead = _read_ahead(self._steps, step, self._num_workers, self._prefetch)
            atexit.register(self._at_exit)  # before multiprocessing waits for them there
        try:
            work = next(self._ahead)
        except (RuntimeError, OSError, EOFError) as error:
            self.close()
            reason = " ".join(str(error).split()).rstrip(".")
            if isinstance(error, RuntimeError) and not reason.startswith("DataLoader worker"):
                raise  # it lives, and says what went wrong
            raise DataError(
                f"a process that reads data died before it gave step {step} ({reason}); it was"
                " killed or ran out of memory: take fewer num_workers or smaller batches"
            ) from error
        self._next = step + 1
        if work.batch is None:
            return work
        return work._replace(batch=replace(work.batch, images=np.asarray(work.batch.images)))


class _Work(NamedTuple):
    """What comes of a step: its batch, or else why there is none."""

    batch: Batch | None
    bad: list[BadRow]
    failure: InputError | None = None


class _Steps:
    """Step -> work; what is sent to the workers."""

    def __init__(
        self, source: Squares | CachedSquares, order: RowOrder, augment: RandomCrop | None
    ) -> None:
        self.source = source
        self.order = order
        self.augment = augment

    def __getitem__(self, step: int) -> _Work:
        rows, crops = self.order.batch(step), None
        if self.augment is not None:
            crops = self.augment.batch(step, self.order.share[0], len(rows))
        try:
            return _Work(*self.source.batch(rows, crops))
        except InputError as error:  # why here: torch would bury its sentence in a traceback
            return _Work(None, [], error)


def _close(loader: weakref.ref[Loader]) -> None:
    if (alive := loader()) is not None:
        alive.close()


def _read_ahead(steps: _Steps, first: int, num_workers: int, prefetch: int) -> Iterator[_Work]:
    from torch.utils.data import DataLoader

    kinds = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in kinds else "spawn")
    context.set_forkserver_preload(["torch", "numpy", "PIL.Image"])  # once, not in every worker
    loader: DataLoader = DataLoader(
        steps,
        sampler=range(first, sys.maxsize),
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=prefetch,
        collate_fn=_share_memory,
        multiprocessing_context=context,
    )
    with _signals_kept_off():
        return iter(loader)


@contextlib.contextmanager
def _signals_kept_off() -> Iterator[None]:
    """Processes started here never see Ctrl-C or a scheduler's SIGTERM, which reach all of a group.

    why: the main process needs its data until it has saved; it ends its workers itself.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # would let them through again if it started within
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _share_memory(work: _Work) -> _Work:
    """In a worker: torch hands tensors over in shared memory, where arrays go through a pipe."""
    import torch

    if work.batch is None:
        return work
    return work._replace(batch=replace(work.batch, images=torch.from_numpy(work.batch.images)))
