"""The one training loop. It never varies: batch, backward, step, log, save, evaluate.

What is trained is a `Task`; what is seen is `batches`. Randomness of part p of step n comes from
(seed, n, p) alone, so a resumed run equals an uninterrupted one bit for bit on CPU, and many
processes equal one that computes the same parts one after another.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mmfm.training import checkpoint
from mmfm.training.claim import claimed
from mmfm.training.distributed import join
from mmfm.training.interrupts import Interrupts, Stopped
from mmfm.training.log import Log
from mmfm.training.loop_config import LoopConfig
from mmfm.training.meter import Meter
from mmfm.training.optim import build_optimizer, clip_gradients, freeze, learning_rate, set_rate
from mmfm.training.parallel import arrange, blocks
from mmfm.training.resume import ResumeError, check_same, identity
from mmfm.training.state import prepare_optimizer, state_tensors
from mmfm.training.task import Task

__all__ = ["Batches", "LoopConfig", "NonFiniteLoss", "train"]


class Batches(Protocol):
    """Batch `step`, the same at every call; this process's share when there are many.

    It may have `fingerprint() -> str`, which tells other data apart, and `close()`.
    """

    def batch(self, step: int) -> Any: ...


class NonFiniteLoss(RuntimeError):
    """Too many steps in a row had a loss or gradient that is not a number."""


def train(
    task: Task,
    batches: Batches,
    config: LoopConfig,
    folder: Path,
    stop: Callable[[], bool] = lambda: False,
    *,
    settings: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Run (or resume, when `folder` holds a checkpoint) and return the averaged module.

    SIGTERM, at any moment, and `stop()` returning True save a checkpoint and end early; for the
    signal the process exits with code 143. Started by `torchrun`, many processes train one module
    together; `batches` then gives each its share, and `evaluate` runs in each and must not talk to
    the others. settings: what else decides the weights; a resumed run must have the same.

    Raises NonFiniteLoss after `max_bad_steps` bad steps in a row (the last good checkpoint stays),
    ResumeError when the checkpoint is of other settings or data, OutputError when `folder` cannot
    be written.
    """
    try:
        with Interrupts() as interrupts, claimed(folder, join()):
            run = _Run(task, batches, config, folder, settings)
            try:
                _go(run, interrupts, stop)
            finally:
                run.log.close()
            interrupts.leave()
            return run.arranged.averaged()
    finally:
        getattr(batches, "close", lambda: None)()


def _go(run: _Run, interrupts: Interrupts, stop: Callable[[], bool]) -> None:
    """The loop itself."""

    def ended() -> bool:
        """Asked of all processes at once, so that all stop after the same step."""
        interrupts.agreed = run.world.largest(interrupts.received)
        return bool(interrupts.agreed) or run.world.any(stop())

    run.evaluate(interrupts)  # one that a kill cut short
    while run.step < run.config.num_steps and not ended():
        run.make_step(run.draw())
        if run.step % run.config.save_every == 0 or run.step == run.config.num_steps:
            run.save()
        run.evaluate(interrupts)
    run.save()
    ended()  # a signal that came since, in the last evaluation say


class _Run:
    """What a training is at one moment, and the few things that can be done with it."""

    def __init__(
        self, task: Task, batches: Batches, config: LoopConfig, folder: Path,
        settings: Mapping[str, Any] | None,
    ) -> None:  # fmt: skip
        self.task, self.batches, self.config, self.folder = task, batches, config, folder
        self.world = join()
        task.module.train()
        freeze(task.module, config.parts)
        self.arranged = arrange(task, config, self.world)
        self.optimizer = build_optimizer(task.module, config)
        self.identity = identity(config, batches, settings)
        self.step, self.saved = 0, -1  # steps made, and at the newest checkpoint
        self.bad = 0  # non-finite steps in a row
        self.samples: int | None = None  # of a step, over all processes
        self.meter = Meter()
        self.compiled = False
        self._resume()
        self.log = Log(
            folder, self.step, quiet=not self.world.first, wandb=config.wandb,
            settings=self.identity,
        )  # fmt: skip
        self.log.say(f"resumed at step {self.step}" if self.saved >= 0 else "started")

    def draw(self) -> Any:
        """The batch of the next step; when the data fails, the steps so far are kept."""
        try:
            return self.batches.batch(self.step)
        except Exception:
            self._keep()
            raise

    def make_step(self, batch: Any) -> None:
        """Batch, backward, step, average, log."""
        config, step = self.config, self.step
        self._expect(len(batch) * self.world.size)
        rate = learning_rate(step, config)
        set_rate(self.optimizer, rate)
        with self._measured(len(batch)):
            loss, parts = self.arranged.backward(batch, config.accumulate, self._seeds)
        norm = clip_gradients(self.task.module.parameters(), config.clip_norm)
        if self.world.any(not torch.isfinite(loss + norm)):
            self._skip()
        else:
            self.optimizer.step()
            self.bad = 0
        self.optimizer.zero_grad(set_to_none=True)
        self.arranged.average.update(self.task.module, step)
        self.step = step + 1
        self.meter.add(len(batch) * self.world.size)
        if self.step % config.log_every == 0:
            means = self.world.mean({"loss": loss, "gradient_norm": norm, **parts})
            values = {**means, "learning_rate": rate, **self.meter.read()}
            self.log.train(self.step, values)
            self.log.say(_line(self.step, config.num_steps, values))

    def evaluate(self, interrupts: Interrupts) -> None:
        """Measure the averaged weights, where it is due and not done; a signal breaks it off."""
        due = self.config.evaluates(self.step) and not self.log.evaluated(self.step)
        if not self.world.any(self.world.first and due):
            return
        with self.meter.pause():
            module = self.arranged.averaged()
            torch.manual_seed(self.config.seed)
            try:
                with interrupts.welcome(), torch.inference_mode():
                    numbers, pictures = self.task.evaluate(module)
            except Stopped:
                return
            except Exception:
                self._keep()
                raise
            finally:
                self.task.module.train()
            self.log.evaluation(self.step, numbers, pictures)
            self.log.say(f"step {self.step}: {numbers}")

    def save(self) -> None:
        """A checkpoint of this step, unless there is one."""
        if self.saved == self.step:
            return
        notes = {
            "identity": self.identity, "samples": self.samples, "parts": self._parts,
            "bad": self.bad, "flops_per_sample": self.meter.flops_per_sample,
        }  # fmt: skip
        with self.meter.pause():
            checkpoint.save(self.folder, self.step, self._tensors(), notes, self.world)
        self.saved = self.step

    def _keep(self) -> None:
        """Save before an error ends the run; not with others, who may wait for something else."""
        if self.world.size == 1:
            self.save()

    def _resume(self) -> None:
        found = checkpoint.newest(self.folder, self.world)
        if found is None:
            return
        exact = self.config.resume == "exact"
        if exact:
            check_same(found.notes["identity"], self.identity, found.step)
        prepare_optimizer(self.task.module, self.optimizer, found.shapes)
        found.load(self._tensors(), spare="" if exact else "optimizer.")
        self.step = self.saved = found.step
        self.bad, self.samples = found.notes["bad"], found.notes["samples"]
        self.meter = Meter(found.notes["flops_per_sample"])
        if found.notes["parts"] != self._parts:
            warnings.warn(
                f"a step is computed in {self._parts} parts, before in {found.notes['parts']}: the "
                "run goes on, with other random numbers",
                stacklevel=4,
            )

    def _expect(self, samples: int) -> None:
        """The global batch must stay what it was, or the order of the data changes."""
        if self.samples not in (None, samples) and self.config.resume == "exact":
            raise ResumeError(
                f"a step has {samples} samples and had {self.samples} before: give every process "
                "its share of the same batch, start in another folder, or take resume=anyway"
            )
        self.samples = samples

    def _skip(self) -> None:
        self.bad += 1
        self.log.skipped(self.step + 1, self.bad)
        if self.bad >= self.config.max_bad_steps:
            raise NonFiniteLoss(
                f"{self.bad} steps in a row were not finite at step {self.step + 1}; lower "
                f"learning_rate (now {self.config.learning_rate}); the last good checkpoint is in "
                f"{self.folder}"
            )

    def _measured(self, samples: int) -> AbstractContextManager:
        """The first step of a run counts its operations; later ones are compiled, if asked for."""
        if self.meter.flops_per_sample is None:
            return self.meter.counting(samples)
        if self.config.compile and not self.compiled:
            for block in blocks(self.task.module):
                block.compile()
            self.compiled = True
        return nullcontext()

    @property
    def _parts(self) -> int:
        return self.config.accumulate * self.world.size

    def _seeds(self, part: int) -> torch.Generator:
        """Of a part of this process, counted over all processes."""
        number = self.world.rank * self.config.accumulate + part
        entropy = np.random.SeedSequence((self.config.seed, self.step, number))
        return torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))

    def _tensors(self) -> dict[str, Tensor]:
        return state_tensors(self.task.module, self.arranged.average, self.optimizer)


def _line(step: int, num_steps: int, values: Mapping[str, Any]) -> str:
    shown = "  ".join(f"{k} {v:.4g}" for k, v in values.items() if isinstance(v, float))
    return f"{step}/{num_steps}  {shown}"
