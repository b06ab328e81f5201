"""How fast a run is: samples per second, and floating-point operations counted once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch.utils.flop_counter import FlopCounterMode


class Meter:
    """Throughput since the last reading; time inside `pause` does not count."""

    def __init__(self, flops_per_sample: float | None = None) -> None:
        self.flops_per_sample = flops_per_sample  # forward and backward, as executed
        self._start = time.monotonic()
        self._samples = 0

    @contextmanager
    def counting(self, samples: int) -> Iterator[None]:
        """Count the operations of what runs inside, which works on `samples` samples."""
        with FlopCounterMode(display=False) as counter:
            yield
        self.flops_per_sample = counter.get_total_flops() / samples

    @contextmanager
    def pause(self) -> Iterator[None]:
        before = time.monotonic()
        try:
            yield
        finally:
            self._start += time.monotonic() - before

    def add(self, samples: int) -> None:
        self._samples += samples

    def read(self) -> dict[str, float]:
        """Samples and 10^9 operations per second since the last call, over all processes."""
        now = time.monotonic()
        rate = self._samples / max(now - self._start, 1e-9)
        self._start, self._samples = now, 0
        flops = self.flops_per_sample or 0.0
        return {"samples_per_second": rate, "gflops_per_second": rate * flops / 1e9}
