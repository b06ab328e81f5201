"""Peak memory and time of a call, measured in a process of its own. Linux only."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import versions

PROCESS = Path("/proc/self")
PAGE = 4096


class Measured(NamedTuple):
    """A call's CPU seconds, and resident bytes of its process: empty, before the call, at most."""

    seconds: float
    empty: int
    ready: int
    peak: int


def can_measure() -> bool:
    """Whether this system tells; says so where it does not."""
    if not PROCESS.exists():
        print("peak memory is measured on Linux alone", file=sys.stderr)
    return PROCESS.exists()


def measure(make: Callable[..., Callable[[], Any]], *arguments: Any) -> Measured:
    """In a new process, what the call that `make(*arguments)` returns needs.

    `make` is a function at the top of a module. It should call once before, if only on something
    small, so that libraries and their buffers are there.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as process:
        return process.submit(_measure, make, arguments).result()


def report_memory(
    benchmark: str, case: str, ours: int, peer: int, *, gate: dict[str, float], equal: bool,
    peer_version: str | None = None,
) -> None:  # fmt: skip
    """Print the JSON line of a case, in MiB; `ratio` is the peer's over ours."""
    ratio = round(peer / ours, 3)
    line = {
        "benchmark": benchmark,
        "case": f"{case}: peak memory",
        "ratio": ratio,
        "ours": round(ours / 2**20, 3),
        "peer": round(peer / 2**20, 3),
        "unit": "MiB",
        "peer_version": peer_version or versions("open_clip_torch"),
        "gate": gate,
        "equal": equal,
        "rounds": 1,
        "spread": [ratio, ratio],
    }
    print(json.dumps(line), flush=True)


def _measure(make: Callable[..., Callable[[], Any]], arguments: tuple) -> Measured:
    import torch  # noqa: F401  (its libraries are no part of what is measured)

    empty = _resident("VmRSS")
    call = make(*arguments)
    ctypes.CDLL(None).malloc_trim(0)  # free memory kept for later would hide what the call takes
    (PROCESS / "clear_refs").write_text("5")  # forget the peak so far
    ready = _resident("VmRSS")
    begin = time.process_time()
    call()
    seconds = time.process_time() - begin
    return Measured(seconds, empty, ready, max(_resident("VmHWM"), ready + PAGE))


def _resident(name: str) -> int:
    lines = (PROCESS / "status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith(name)]
    return 1024 * int(line.split()[1])
