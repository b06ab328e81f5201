"""What each precision did on this machine, kept between runs: one small JSON file a tower.

A file that is damaged, or about something else, is as good as none; one that cannot be written is
no reason to fail.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmfm.durable import replacing
from mmfm.encoders.cache_folder import cache_folder

VERSION = 2  # of what is measured and how; older files are not read
SAMPLED = 256  # numbers of each tensor that go into a key


@dataclass(frozen=True)
class Trial:
    """One precision on real inputs: the least cosine to float32, and how much faster it was."""

    cosine: float
    speedup: float | None  # None: not timed

    def __post_init__(self) -> None:
        if not isinstance(self.cosine, float) or not isinstance(self.speedup, float | None):
            raise TypeError("a trial holds numbers")


Trials = dict[str, Trial]  # by the name of the precision


def key_of(tower: dict[str, Tensor], device: torch.device) -> str:
    """The tower, this processor, its threads and torch: what a trial's outcome depends on.

    Of each tensor up to 256 numbers, evenly spread, are read: any training moves them, and a
    model of gigabytes is told from others in milliseconds.
    """
    digest = hashlib.sha256()
    for name, value in sorted(tower.items()):
        flat = value.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // SAMPLED)].float().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(some.numpy().tobytes())
    machine = [processor(device), torch.get_num_threads(), torch.__version__, VERSION]
    digest.update(json.dumps(machine).encode())
    return digest.hexdigest()[:40]


def processor(device: torch.device) -> str:
    """The name of what computes, and which instructions torch uses of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next(line.split(":", 1)[1] for line in lines if line.startswith("model name"))
    return f"{device.type} {name.strip()} {torch.backends.cpu.get_cpu_capability()}"


def recall(key: str, kind: Callable[..., Any] = Trial) -> dict[str, Any]:
    """What `remember` kept, by name, or nothing. kind: the dataclass of one trial."""
    try:
        told = json.loads(_place(key).read_text(encoding="utf-8"))
        if told["key"] != key:
            return {}
        return {name: kind(**values) for name, values in told["trials"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def remember(key: str, trials: Mapping[str, Any]) -> None:
    """Keep trials, dataclasses of numbers, for `recall`, in this run and in later ones."""
    told = {"key": key, "trials": {name: asdict(trial) for name, trial in trials.items()}}
    place = _place(key)
    with suppress(OSError):
        os.makedirs(place.parent, exist_ok=True)
        with replacing(place) as file:
            file.write(json.dumps(told, indent=1).encode())


def _place(key: str) -> Path:
    return cache_folder("precision") / f"{key}.json"
