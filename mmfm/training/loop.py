"""The one training loop. It never varies: batch, loss, step, log, evaluate, save.

What is trained is a `Task`; what is seen is an `Order`. Randomness of step n comes from
(seed, n) alone, so a resumed run equals an uninterrupted one bit for bit on CPU.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mmfm.data.order import Order
from mmfm.training import checkpoint
from mmfm.training.log import Log


class Task(Protocol):
    """A model and its loss."""

    module: nn.Module  # what is trained and averaged

    def loss(self, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, dict]:
        """Scalar loss of the samples `rows`, and parts to log; randomness only from generator."""

    def evaluate(self, module: nn.Module) -> tuple[dict[str, Any], dict[str, Image.Image]]:
        """Numbers and sample sheets on held-out data, with the averaged weights."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long and how fast; `num_steps` fixes the schedule, so decide it before starting."""

    num_steps: int
    learning_rate: float = 5e-4
    warmup_steps: int = 100
    final_rate: float = 0.02  # of learning_rate, at the end of the cosine
    weight_decay: float = 0.05
    beta2: float = 0.98
    ema_decay: float = 0.998
    clip_norm: float = 1.0
    seed: int = 0
    log_every: int = 20
    evaluate_every: int = 500
    save_every: int = 250
    max_bad_steps: int = 20  # non-finite steps in a row before the run stops


class NonFiniteLoss(RuntimeError):
    """Too many steps in a row had a loss or gradient that is not a number."""


def learning_rate(step: int, config: LoopConfig) -> float:
    """Linear warm-up, then a cosine down to final_rate."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    cosine = 0.5 * (1 + np.cos(np.pi * min(1.0, done)))
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * float(cosine))


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Matrices and kernels decay; biases, norms, embeddings' scales and single vectors do not."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]


def train(
    task: Task,
    order: Order,
    config: LoopConfig,
    folder: Path,
    stop: Callable[[], bool] = lambda: False,
) -> nn.Module:
    """Run (or resume, when `folder` holds a checkpoint) and return the averaged module.

    SIGTERM, or `stop()` returning True, saves a checkpoint and returns early with exit code 143
    for the signal. Raises NonFiniteLoss after `max_bad_steps` bad steps in a row; the last good
    checkpoint stays.
    """
    module = task.module.train()
    optimizer = torch.optim.AdamW(
        parameter_groups(module, config.weight_decay), lr=config.learning_rate,
        betas=(0.9, config.beta2), fused=True,
    )  # fmt: skip
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    log = Log(folder)
    step, bad = 0, 0
    found = checkpoint.load_newest(folder)
    if found is not None:
        step, state = found
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        average.load_state_dict(state["average"])
        print(f"resumed at step {step}", file=sys.stderr)

    def save() -> None:
        state = {
            "module": module.state_dict(), "optimizer": optimizer.state_dict(),
            "average": average.state_dict(),
        }  # fmt: skip
        checkpoint.save(folder, step, state)

    with _terminated() as terminated:
        started, seen, waste = time.monotonic(), 0, 0.0
        while step < config.num_steps and not stop():
            generator = torch.Generator().manual_seed(_mix(config.seed, step))
            rate = learning_rate(step, config)
            for group in optimizer.param_groups:
                group["lr"] = rate
            rows = order.batch(step)
            loss, parts = task.loss(rows, generator)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(module.parameters(), config.clip_norm)
            if torch.isfinite(loss) and torch.isfinite(norm):
                optimizer.step()
                bad = 0
            else:
                bad += 1
                log.scalars(step, {"non_finite": bad})
                if bad >= config.max_bad_steps:
                    log.close()
                    raise NonFiniteLoss(
                        f"{bad} steps in a row were not finite at step {step}; lower learning_rate "
                        f"(now {config.learning_rate}); the last good checkpoint is in {folder}"
                    )
            optimizer.zero_grad(set_to_none=True)
            # early weights are noise: let the average forget them quickly
            average.multi_avg_fn = get_ema_multi_avg_fn(
                min(config.ema_decay, (1 + step) / (10 + step))
            )
            average.update_parameters(module)
            step += 1
            seen += len(rows)
            if step % config.log_every == 0:
                seconds = time.monotonic() - started - waste
                values = {"loss": loss.item(), "gradient_norm": float(norm), "learning_rate": rate,
                          "samples_per_second": seen / seconds, **parts}  # fmt: skip
                log.scalars(step, {k: round(v, 6) for k, v in values.items()})
                _say(step, config.num_steps, values)
            if step % config.evaluate_every == 0 or step == config.num_steps:
                pause = time.monotonic()
                numbers, pictures = _evaluate(task, average.module)
                log.scalars(step, numbers)
                for name, picture in pictures.items():
                    log.picture(step, name, picture)
                print(f"step {step}: {numbers}", file=sys.stderr)
                waste += time.monotonic() - pause
            ended = terminated()  # asked once: a signal after this line waits for the next step
            if step % config.save_every == 0 or step == config.num_steps or ended:
                save()
            if ended:
                log.close()
                raise SystemExit(143)
        if step < config.num_steps:
            save()
    log.close()
    return average.module.eval()


def _evaluate(task: Task, module: nn.Module):
    module.eval()
    with torch.inference_mode():
        return task.evaluate(module)


def _mix(seed: int, step: int) -> int:
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)


def _say(step: int, num_steps: int, values: dict[str, float]) -> None:
    shown = "  ".join(f"{k} {v:.4g}" for k, v in values.items())
    print(f"{step}/{num_steps}  {shown}", file=sys.stderr, flush=True)


@contextmanager
def _terminated() -> Iterator[Callable[[], bool]]:
    """A flag that SIGTERM raises; a second SIGTERM ends the process at once."""
    got = False

    def handle(number, frame) -> None:
        nonlocal got
        if got:
            raise SystemExit(143)
        got = True

    try:
        before = signal.signal(signal.SIGTERM, handle)
    except ValueError:  # not the main thread: the caller's `stop` is the way to end the run
        yield lambda: False
        return
    try:
        yield lambda: got
    finally:
        signal.signal(signal.SIGTERM, before)
