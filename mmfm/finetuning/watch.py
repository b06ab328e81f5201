"""A stage of a fine-tuning: the loop, ended when the hold-out gains no more; best weights kept.

What is remembered lies in the stage's folder (the loop's log, and `best.safetensors`), so a run
that was killed goes on as if it had not been.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from mmfm.data.order import Order
from mmfm.durable import replacing
from mmfm.training.log import read_log
from mmfm.training.loop import LoopConfig, train
from mmfm.training.task import Task

BEST, LOG = "best.safetensors", "log.jsonl"
SCORE = "score"  # in the log; higher is better


class Watched:
    """A task that keeps its best weights. score: the evaluation's numbers -> higher is better."""

    def __init__(
        self, task: Task, score: Callable[[Mapping[str, Any]], float], folder: Path
    ) -> None:
        self.task, self.score, self.folder = task, score, folder
        self.module = task.module

    def loss(self, batch: Any, generator: Any) -> tuple[Tensor, dict[str, Any]]:
        return self.task.loss(batch, generator)

    def evaluate(self, module: nn.Module) -> tuple[dict[str, Any], dict[str, Image.Image]]:
        numbers, pictures = self.task.evaluate(module)
        score = self.score(numbers)
        if score > max((s for _, s in self.scores()), default=-np.inf):
            _save(module, self.folder / BEST)
        return {**numbers, SCORE: round(score, 6)}, pictures

    def scores(self) -> list[tuple[int, float]]:
        """(step, score) of every evaluation so far."""
        path = self.folder / LOG
        lines = read_log(path) if path.exists() else []
        return [(line["step"], line[SCORE]) for line in lines if SCORE in line]

    def stop(self, patience: int) -> Callable[[], bool]:
        """Whether the last `patience` evaluations brought nothing; asks the file when it grew."""
        known: dict[str, Any] = {"size": -1, "over": False}

        def over() -> bool:
            size = os.path.getsize(self.folder / LOG) if (self.folder / LOG).exists() else 0
            if size != known["size"]:
                scores = [score for _, score in self.scores()]
                best = scores.index(max(scores)) if scores else 0
                known.update(size=size, over=len(scores) - 1 - best >= patience)
            return known["over"]

        return over


class Rows(Order):
    """An order that knows of what: other pictures are other data."""

    def __init__(self, weights: np.ndarray, batch_size: int, seed: int, keys: list[str]) -> None:
        super().__init__(weights, batch_size, seed)
        self.keys = keys

    def fingerprint(self) -> str:
        digest = sha256("\n".join(self.keys).encode())
        digest.update(self.weights.tobytes())
        return digest.hexdigest()


def run_stage(
    task: Task, rows: Rows, loop: LoopConfig, folder: Path, *, patience: int,
    score: Callable[[Mapping[str, Any]], float], settings: Mapping[str, Any],
    stop: Callable[[], bool] = lambda: False,
) -> nn.Module:  # fmt: skip
    """Run or resume a stage; `task.module` and what is returned have the weights of the best step.

    Raises Unfinished when `stop` ended it before its time; the same call goes on.
    """
    watched = Watched(task, score, folder)
    over = watched.stop(patience)
    train(watched, rows, loop, folder, lambda: over() or stop(), settings=settings)
    if stop() and not over() and not any(s == loop.num_steps for s, _ in watched.scores()):
        raise Unfinished(folder.name)
    _load(task.module, folder / BEST)
    return task.module.eval()


class Unfinished(RuntimeError):
    """The caller's `stop` ended a stage; its state is on disk."""


def _save(module: nn.Module, path: Path) -> None:
    from safetensors.torch import save

    state = {name: value.detach().contiguous() for name, value in module.state_dict().items()}
    with replacing(path) as file:
        file.write(save(state))


def _load(module: nn.Module, path: Path) -> None:
    from safetensors.torch import load_file

    if path.exists():
        module.load_state_dict(load_file(path))
