"""Seconds from a cold start, without a peer: one search, sixteen captions, four pictures.

Each is a new process of the command as a person types it, with an empty cache, so that nothing is
remembered from before: imports, weights and the trial of precisions all count. One JSON line a
case: wall-clock and CPU seconds of the slowest round, which must stay within `limit`. A busy
machine adds to the former; exit code 1 says that both passed the limit. One thread: where another
program wants a core, a second thread was seen to make it several times slower.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import Options, options

LIMIT = 10.0  # seconds
THREADS = "1"


def cases(folder: Path, place: Path) -> dict[str, list[str]]:
    """Case -> what follows `mmfm`."""
    from mmfm.cli import gallery

    pictures = sorted(str(path) for path in Path(gallery.FOLDER).rglob("*.png"))[:16]
    shared = ["--model", str(folder), "--device", "cpu", "--json"]
    return {
        "search in the 240 drawings of the gallery": [
            "search", str(gallery.FOLDER), "a red apple", *shared,
        ],
        "caption of 16 pictures": ["caption", *pictures, *shared],
        "generate -n 4": [
            "generate", "a red apple", "-n", "4", "--seed", "0", "-o", str(place / "out.png"),
            *shared,
        ],
    }  # fmt: skip


def run(arguments: list[str], cache: str) -> tuple[float, float]:
    """(wall-clock, CPU) seconds of a command in a new process; its stderr ends us if it fails."""
    environment = {**os.environ, "MMFM_CACHE": cache, "OMP_NUM_THREADS": THREADS,
                   "MKL_NUM_THREADS": THREADS}  # fmt: skip
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "mmfm", *arguments], env=environment, capture_output=True, text=True
    )
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"mmfm {arguments[0]} failed:\n{done.stderr}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu


def main(given: Options) -> None:
    within = True
    with TemporaryDirectory() as name:
        for case, arguments in cases(given.folder, Path(name)).items():
            taken = [run(arguments, f"{name}/{case}-{n}") for n in range(given.rounds)]
            wall, cpu = (max(some) for some in zip(*taken))
            within = within and min(wall, cpu) <= LIMIT
            line = {
                "benchmark": "seconds", "case": case, "seconds": round(wall, 2),
                "cpu_seconds": round(cpu, 2), "limit": LIMIT, "within": wall <= LIMIT,
                "threads": int(THREADS), "rounds": given.rounds,
            }  # fmt: skip
            print(json.dumps(line), flush=True)
    if not within:
        sys.exit(1)


if __name__ == "__main__":
    main(options(__doc__, rounds=2))
