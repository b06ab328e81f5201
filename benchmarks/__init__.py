"""Ours against open_clip's own code: same weights, same inputs, one thread, outputs compared.

`python -m benchmarks.NAME` prints one JSON line per case. `ours` and `peer` are amounts of work per
second of CPU, so `ratio` (ours over peer) above 1 means that ours is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"  # read when torch and numpy are loaded, also by child processes
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here is downloaded, and no time goes into trying


class Options(NamedTuple):
    """What every benchmark is asked: which model, by name and as a folder, and how many rounds;
    and which of open_clip's architectures, where one of random weights takes part.
    """

    model: str
    folder: Path
    rounds: int
    architecture: str


@dataclass(frozen=True)
class Rounds:
    """CPU seconds of every round, and what both sides gave in the first, unmeasured one."""

    ours: list[float]
    peer: list[float]
    our_output: Any
    peer_output: Any


def options(description: str | None, rounds: int = 7) -> Options:
    """Read `--model` and `--rounds`; a model without a folder is refused with exit status 2."""
    from mmfm.bundle import is_bundle
    from mmfm.loading import WEIGHTS, list_models

    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", default="mini", help="a model that ships, or a bundle folder")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"measured (default: {rounds})")
    parser.add_argument("--architecture", default="ViT-B-32", help="where weights are random")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error(f"--rounds is {given.rounds}, wanted at least 1")
    for folder in (Path(given.model), WEIGHTS / given.model):
        if is_bundle(folder):
            return Options(given.model, folder, given.rounds, given.architecture)
    shipped = ", ".join(list_models()) or "none shipped"
    parser.error(f"no model {given.model!r}; wanted one of {shipped}, or a bundle folder")


def versions(*packages: str) -> str:
    """Names and installed versions, as `peer_version` has them."""
    return ", ".join(f"{package} {version(package)}" for package in packages)


def interleave(
    ours: Callable[[], Any],
    peer: Callable[[], Any],
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> Rounds:
    """Run both once unmeasured, then `rounds` times each in turn, the first of a round changing.

    clock: CPU seconds so far; the default counts this process, so a busy machine matters little.
    """
    our_output, peer_output = ours(), peer()
    seconds: dict[Callable[[], Any], list[float]] = {ours: [], peer: []}
    for number in range(rounds):
        for side in (ours, peer) if number % 2 == 0 else (peer, ours):
            start = clock()
            side()
            seconds[side].append(clock() - start)
    return Rounds(seconds[ours], seconds[peer], our_output, peer_output)


def report(
    benchmark: str, case: str, measured: Rounds, *, amount: int, unit: str,
    gate: dict[str, float], equal: bool, peer_version: str | None = None,
) -> None:  # fmt: skip
    """Print the JSON line of a case; `amount` is the work of one round, in what `unit` counts.

    ours, peer: the median round, as amount per CPU second. spread: the smallest and the largest
    ratio of a single round. gate: how near the outputs are; equal: near enough. peer_version: name
    and version of the peer; None means open_clip's.
    """
    ours, peer = statistics.median(measured.ours), statistics.median(measured.peer)
    ratios = [b / a for a, b in zip(measured.ours, measured.peer, strict=True)]
    line = {
        "benchmark": benchmark,
        "case": case,
        "ratio": round(peer / ours, 3),
        "ours": round(amount / ours, 3),
        "peer": round(amount / peer, 3),
        "unit": f"{unit} per CPU second",
        "peer_version": peer_version or versions("open_clip_torch"),
        "gate": gate,
        "equal": equal,
        "rounds": len(ratios),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
    }
    print(json.dumps(line), flush=True)
    if not equal:
        sys.exit(f"{benchmark}, {case}: the outputs differ ({gate}), so the ratio means nothing")
