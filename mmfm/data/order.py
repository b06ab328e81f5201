"""Which samples a step sees: a pure function of (seed, epoch), so that position is one integer.

With `world_size` processes, a step's global batch is cut into equal runs of rows, one a rank; the
global batch is the same for any number of them, so a run may go on with more or fewer.
"""

from __future__ import annotations

import numpy as np

from mmfm.errors import DataError


class Order:
    """Endless batches over weighted samples, for up to some tens of millions of rows.

    A sample of weight 2.3 comes twice in every epoch and a third time in three epochs of ten.
    Nothing is remembered between calls: batch `step` is the same after any restart.
    """

    def __init__(
        self,
        weights: np.ndarray,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """weights: (N,) non-negative, expected number of visits in an epoch. batch_size: of all
        ranks together; `share` is where in it this rank's part starts and ends. Raises DataError
        for a batch that is too large or cannot be shared equally."""
        self.weights = np.asarray(weights, np.float64)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch_size = int(self.weights.sum())  # samples in an epoch, the same for all
        self.share = _share(self.epoch_size, batch_size, rank, world_size)
        self._cached: tuple[int, np.ndarray] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return self.epoch_size // self.batch_size

    def epoch(self, number: int) -> np.ndarray:
        """All rows of an epoch, shuffled."""
        if self._cached is None or self._cached[0] != number:
            random = np.random.default_rng((self.seed, number))
            whole = np.floor(self.weights).astype(np.int64)
            extra = random.random(len(whole)) < self.weights - whole
            rows = np.repeat(np.arange(len(whole)), whole + extra)
            random.shuffle(rows)
            if not len(rows):  # all weights are fractions and none was drawn
                rows = random.permutation(np.flatnonzero(self.weights))
            while len(rows) < self.epoch_size:  # the draw of fractions came out short
                rows = np.concatenate([rows, rows])
            self._cached = (number, rows[: self.epoch_size])
        return self._cached[1]

    def batch(self, step: int) -> np.ndarray:
        """(batch_size / world_size,) rows of step `step`, counted from 0 over all epochs."""
        number, place = divmod(step, self.steps_per_epoch)
        first, last = self.share
        start = place * self.batch_size
        return self.epoch(number)[start + first : start + last]


class ShuffledShards:
    """Endless batches over shards of N rows in all; row numbers count through the shards in order.

    Every epoch shuffles the shards, takes them `window_shards` at a time and shuffles the rows of
    each such window, so that a disk or store is read a few shards at a time. Every row comes once
    an epoch, but for the last N mod batch_size. Memory is O(shards + rows of a window) whatever N,
    and any step is reached at once. A larger window mixes better: rows of one shard never lie
    further apart than a window.
    """

    def __init__(
        self,
        counts: np.ndarray,
        batch_size: int,
        seed: int,
        *,
        window_shards: int = 16,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """counts: (S,) rows of each shard. batch_size: of all ranks together. Raises DataError."""
        self.counts = np.asarray(counts, np.int64)
        if window_shards < 1:
            raise DataError(f"window_shards is {window_shards}, wanted at least 1")
        self.batch_size = batch_size
        self.seed = seed
        self.window_shards = window_shards
        self.epoch_size = int(self.counts.sum())
        self.share = _share(self.epoch_size, batch_size, rank, world_size)
        self._firsts = np.cumsum(self.counts) - self.counts  # first row of each shard
        self._layout: tuple[int, np.ndarray, np.ndarray] | None = None
        self._windows: dict[tuple[int, int], np.ndarray] = {}

    @property
    def steps_per_epoch(self) -> int:
        return self.epoch_size // self.batch_size

    def epoch(self, number: int) -> np.ndarray:
        """All N rows of an epoch, shuffled: 8 N bytes, so not for the largest data sets."""
        return self._rows(number, 0, self.epoch_size)

    def batch(self, step: int) -> np.ndarray:
        """(batch_size / world_size,) rows of step `step`, counted from 0 over all epochs."""
        number, place = divmod(step, self.steps_per_epoch)
        first, last = self.share
        start = place * self.batch_size
        return self._rows(number, start + first, start + last)

    def _rows(self, number: int, start: int, stop: int) -> np.ndarray:
        """Rows at the places [start, stop) of an epoch."""
        _, ends = self._shards(number)
        parts = []
        window = int(np.searchsorted(ends, start, side="right"))
        while start < stop:
            rows = self._window(number, window)
            base = int(ends[window]) - len(rows)
            parts.append(rows[start - base : stop - base])
            start = min(stop, int(ends[window]))
            window += 1
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _shards(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The shards of an epoch in their order, and where each of its windows ends."""
        if self._layout is None or self._layout[0] != number:
            shards = np.random.default_rng((self.seed, number)).permutation(len(self.counts))
            ends = np.cumsum(self.counts[shards])
            last = np.arange(self.window_shards, len(ends) + self.window_shards, self.window_shards)
            self._layout = (number, shards, ends[np.minimum(last, len(ends)) - 1])
        return self._layout[1:]

    def _window(self, number: int, window: int) -> np.ndarray:
        """Shuffled rows of one window. Two are kept: a batch may reach over the seam."""
        if (number, window) not in self._windows:
            shards, _ = self._shards(number)
            some = shards[window * self.window_shards : (window + 1) * self.window_shards]
            rows = np.concatenate(
                [self._firsts[shard] + np.arange(self.counts[shard]) for shard in some]
            )
            # not `window`: to numpy (seed, number, 0) is (seed, number), which drew the shards
            np.random.default_rng((self.seed, number, window + 1)).shuffle(rows)
            while len(self._windows) > 1:
                del self._windows[next(iter(self._windows))]
            self._windows[number, window] = rows
        return self._windows[number, window]


def _share(epoch_size: int, batch_size: int, rank: int, world_size: int) -> tuple[int, int]:
    """First and last place of a rank in every global batch."""
    if batch_size < 1 or epoch_size < batch_size:
        raise DataError(f"{epoch_size} samples an epoch, wanted at least {max(1, batch_size)}")
    if not 0 <= rank < world_size:
        raise DataError(f"rank {rank} of {world_size}, wanted 0 to {world_size - 1}")
    if batch_size % world_size:
        raise DataError(
            f"a batch of {batch_size} cannot be shared equally by {world_size} processes;"
            f" take {batch_size - batch_size % world_size or world_size}"
        )
    size = batch_size // world_size
    return rank * size, (rank + 1) * size
