"""What a run says: JSON lines always, TensorBoard when it is installed, W&B when asked for."""

from __future__ import annotations

import contextlib
import json
import math
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from mmfm.durable import replacing, sweep
from mmfm.errors import InputError, OutputError

LINES = "log.jsonl"


class Log:
    """Scalars to `folder/log.jsonl`, pictures to `folder/samples/`, both to the boards.

    Line: `{"step": steps made, "kind": "train" | "evaluation" | "skipped", ...}`; a number that is
    not finite is null. A resumed run first drops the lines of steps that it will make again. Only
    one process of many writes (`quiet` ones take every call and do nothing). Raises OutputError
    when something cannot be written.
    """

    def __init__(
        self, folder: Path, step: int = 0, *, quiet: bool = False, wandb: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """step: where the run goes on. wandb: a project. settings: of the run, for W&B to show."""
        self.folder = folder
        self.quiet = quiet
        self._boards: list[Any] = []
        self._evaluated: set[int] = set()
        if quiet:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._evaluated = _rewind(folder / LINES, step)
            self._lines = (folder / LINES).open("a", encoding="utf-8")
        except OSError as error:
            raise _cannot(folder, error) from error
        if wandb:
            self._boards.append(_WandB(folder, wandb, settings or {}))
        with contextlib.suppress(ImportError):  # the JSON lines say the same
            self._boards.append(_TensorBoard(folder / "tensorboard", step))

    def train(self, step: int, values: Mapping[str, Any]) -> None:
        """Of the step that was just made, and of the speed since the last line."""
        self._line(step, "train", values)

    def skipped(self, step: int, in_a_row: int) -> None:
        """A step whose loss or gradient was not finite: the weights stayed as they were."""
        self._line(step, "skipped", {"non_finite": in_a_row})

    def evaluation(
        self, step: int, numbers: Mapping[str, Any], pictures: Mapping[str, Image.Image]
    ) -> None:
        """Pictures as `samples/NAME-STEP.png`, then the line: with it the evaluation is done."""
        if self.quiet:
            return
        try:
            for name, picture in pictures.items():
                path = self.folder / "samples" / f"{name}-{step:07d}.png"
                path.parent.mkdir(exist_ok=True)
                picture.save(path)
                for board in self._boards:
                    board.picture(step, name, picture)
        except OSError as error:
            raise _cannot(self.folder, error) from error
        self._line(step, "evaluation", numbers)
        self._evaluated.add(step)

    def evaluated(self, step: int) -> bool:
        """Whether the evaluation of `step` is in the log."""
        return step in self._evaluated

    def say(self, text: str) -> None:
        """A line for people, on stderr."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.quiet:
            return
        self._lines.close()
        for board in self._boards:
            board.close()

    def _line(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        if self.quiet:
            return
        plain = {name: _plain(value) for name, value in values.items()}
        try:
            line = {"step": step, "kind": kind, **plain}
            self._lines.write(json.dumps(line, allow_nan=False, default=str) + "\n")
            self._lines.flush()
        except OSError as error:
            raise _cannot(self.folder, error) from error
        numbers = {k: v for k, v in plain.items() if isinstance(v, (int, float))}
        for board in self._boards:
            board.numbers(step, numbers)


class _TensorBoard:
    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        import numpy as np

        self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """One W&B run for a folder, however often it is resumed; offline with WANDB_MODE=offline."""

    def __init__(self, folder: Path, project: str, settings: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise InputError(
                "wandb is not installed; pip install 'mmfm[wandb]', or leave wandb empty"
            ) from error
        name = folder / "wandb-run-id"
        if not name.exists():
            _replace_text(name, secrets.token_hex(4))
        self._image = wandb.Image
        self._run = wandb.init(
            project=project, id=name.read_text(), resume="allow", dir=str(folder),
            config=dict(settings), settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        self._run.log({name: self._image(image)}, step=step)

    def close(self) -> None:
        self._run.finish()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; one that a kill cut short is left out."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [line for line in found if isinstance(line, dict) and "step" in line]


def _rewind(path: Path, step: int) -> set[int]:
    """Drop lines after `step` and torn ones; returns the steps whose evaluation is in the log."""
    if not path.exists():
        return set()
    kept = [line for line in read_log(path) if line["step"] <= step]
    _replace_text(path, "".join(json.dumps(line) + "\n" for line in kept))
    return {line["step"] for line in kept if line.get("kind") == "evaluation"}


def _replace_text(path: Path, text: str) -> None:
    sweep(path)  # a run has one writer (see claim.py)
    with replacing(path) as file:
        file.write(text.encode())


def _plain(value: Any) -> Any:
    """Plain JSON: tensors and arrays become numbers or lists, what is not finite null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):  # a tensor or array
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _cannot(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"the log cannot be written to {folder} ({error.strerror or error}); make room there and "
        "start again: the run goes on from its newest checkpoint"
    )
