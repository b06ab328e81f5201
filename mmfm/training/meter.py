"""How fast a run is: samples per second, and floating-point operations counted once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import (
    FlopCounterMode,
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)


def flop_counter() -> FlopCounterMode:
    """torch's counter, with the fused attention of processors, which torch 2.14 does not count."""
    ops = torch.ops.aten
    forward = ops._scaled_dot_product_flash_attention_for_cpu
    backward = ops._scaled_dot_product_flash_attention_for_cpu_backward
    missing = {
        forward: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        backward: lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v),
    }
    return FlopCounterMode(
        display=False,
        custom_mapping={op: f for op, f in missing.items() if op not in flop_registry},
    )


class Meter:
    """Throughput since the last reading; time inside `pause` does not count."""

    def __init__(self, flops_per_sample: float | None = None) -> None:
        self.flops_per_sample = flops_per_sample  # forward and backward, as executed
        self._start = time.monotonic()
        self._cpu = time.process_time()
        self._samples = 0

    @contextmanager
    def counting(self, samples: int) -> Iterator[None]:
        """Count the operations of what runs inside, which works on `samples` samples."""
        with flop_counter() as counter:
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
        """Samples and 10^9 operations per second since the last call, over all processes; how many
        samples that were, and CPU seconds of this process since then, what is paused included.
        """
        now = time.monotonic()
        rate = self._samples / max(now - self._start, 1e-9)
        samples, self._start, self._samples = self._samples, now, 0
        flops = self.flops_per_sample or 0.0
        cpu, self._cpu = self._cpu, time.process_time()
        return {
            "samples_per_second": rate,
            "gflops_per_second": rate * flops / 1e9,
            "samples": samples,
            "cpu_seconds": self._cpu - cpu,
        }
