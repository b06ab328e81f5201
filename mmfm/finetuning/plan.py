"""What a fine-tuning will take, said before it starts: steps timed on this machine, and memory."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmfm.errors import InputError, OutputError
from mmfm.training.task import Task

_TIMED = 2  # steps, after one that warms up
_UPDATE = 1.15  # a whole step over its forward and backward pass
GIB = 2**30


@dataclass(frozen=True)
class Stage:
    """Steps of one stage and the seconds that one takes."""

    name: str
    steps: int
    seconds: float

    @property
    def minutes(self) -> float:
        return self.steps * self.seconds / 60


@dataclass(frozen=True)
class Plan:
    """counts: of pictures, by what they are for. memory, disk: bytes that will be needed."""

    counts: dict[str, int]
    stages: Sequence[Stage]
    other_minutes: float  # encoding, measuring, the report
    memory: int
    disk: int
    choices: dict[str, Any]

    @property
    def minutes(self) -> float:
        return sum(stage.minutes for stage in self.stages) + self.other_minutes

    def to_dict(self) -> dict[str, Any]:
        return {
            "pictures": self.counts,
            "stages": [{"name": s.name, "steps": s.steps, "seconds_per_step": round(s.seconds, 4),
                        "minutes": round(s.minutes, 2)} for s in self.stages],
            "minutes": round(self.minutes, 1),
            "memory_gib": round(self.memory / GIB, 2),
            "disk_gib": round(self.disk / GIB, 2),
            "choices": self.choices,
        }  # fmt: skip

    def lines(self) -> list[str]:
        """For people."""
        counts = ", ".join(f"{count:,} {name}" for name, count in self.counts.items())
        stages = ", ".join(f"{s.name} {s.steps} steps ({s.minutes:.1f} min)" for s in self.stages)
        return [
            f"pictures: {counts}",
            f"training: {self.choices['train']}; {stages}",
            f"about {max(1, round(self.minutes))} minutes at most (a stage that gains nothing on "
            f"the hold-out ends early), {self.memory / GIB:.1f} GiB of memory, "
            f"{self.disk / GIB:.2f} GiB of disk",
        ]


def pace(task: Task, rows: np.ndarray, precision: str = "fp32") -> float:
    """Seconds of a step, timed without changing a weight."""
    module = task.module.train()
    seconds = []
    for number in range(1 + _TIMED):
        generator = torch.Generator().manual_seed(number)
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss, _ = task.loss(rows, generator)
        loss.backward()
        seconds.append(time.perf_counter() - start)
        module.zero_grad(set_to_none=True)
    return _UPDATE * min(seconds[1:])


def memory_of(
    parts: Mapping[str, nn.Module], trained: Collection[str], *, num_pictures: int, grid: int,
    side: int, views: int, batch: int,
) -> int:  # fmt: skip
    """Bytes: weights, and their copy, of all parts; gradient, moments and average of trained ones;
    squares; cached embeddings.

    grid: numbers in the image tokens of a picture. Activations are taken as 60 times 12 of them.
    """
    sizes = _sizes(parts)
    weights = 2 * sum(sizes.values()) + 5 * sum(sizes[name] for name in trained)
    pictures = num_pictures * (4 * side**2 + 2 * grid * (views + 1))
    return 4 * weights + pictures + 4 * 60 * 12 * batch * grid


def disk_of(parts: Mapping[str, nn.Module], trained: Collection[str]) -> int:
    """Bytes: the model; two checkpoints of weights, average and moments, and the best weights."""
    sizes = _sizes(parts)
    return 4 * (sum(sizes.values()) + 9 * sum(sizes[name] for name in trained))


def share_of(parts: Mapping[str, nn.Module], trained: Collection[str]) -> float:
    """Of all weights, those in the parts that are trained."""
    sizes = _sizes(parts)
    return sum(sizes[name] for name in trained) / sum(sizes.values())


def _sizes(parts: Mapping[str, nn.Module]) -> dict[str, int]:
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def expect_room(memory: int, disk: int, folder: Path) -> None:
    """Raises InputError for too little memory, OutputError for too little disk, before any work."""
    free = _free_memory()
    if free is not None and memory > free:
        raise InputError(
            f"this takes about {memory / GIB:.1f} GiB of memory and {free / GIB:.1f} GiB are free; "
            "take a smaller --batch-size, --train heads, fewer pictures, or a larger machine"
        )
    parent = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    room = shutil.disk_usage(parent).free
    if disk > room:
        raise OutputError(
            f"this takes about {disk / GIB:.2f} GiB of disk and {room / GIB:.2f} GiB are free at "
            f"{parent}; make room, or choose another place"
        )


def _free_memory() -> int | None:
    """Bytes that this process can still have, where the platform tells."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
