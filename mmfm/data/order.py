"""Which samples a step sees: a pure function of (seed, epoch), so that position is one integer."""

from __future__ import annotations

import numpy as np


class Order:
    """Endless batches over weighted samples.

    A sample of weight 2.3 comes twice in every epoch and a third time in three epochs of ten.
    Nothing is remembered between calls: batch `step` is the same after any restart.
    """

    def __init__(self, weights: np.ndarray, batch_size: int, seed: int) -> None:
        """weights: (N,) non-negative, expected number of visits in an epoch."""
        self.weights = np.asarray(weights, np.float64)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch_size = int(self.weights.sum())  # samples in an epoch, the same for all
        if self.epoch_size < batch_size:
            raise ValueError(f"{self.epoch_size} samples an epoch, wanted at least {batch_size}")
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
        """(batch_size,) rows of step `step`, counted from 0 over all epochs."""
        number, place = divmod(step, self.steps_per_epoch)
        return self.epoch(number)[place * self.batch_size : (place + 1) * self.batch_size]
