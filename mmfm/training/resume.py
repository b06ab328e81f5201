"""Whether a run may go on from a checkpoint: what decides the weights must be what it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from mmfm.errors import InputError
from mmfm.training.loop_config import LoopConfig, free_settings
from mmfm.training.optim import learning_rate

_RATE = {"num_steps", "learning_rate", "schedule", "warmup_steps", "final_rate"}


class ResumeError(InputError):
    """A checkpoint was made with other settings or other data."""


def identity(
    config: LoopConfig, batches: Any, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What decides the weights, as JSON types: the loop's settings, the data, the caller's own."""
    loop = {k: v for k, v in asdict(config).items() if k not in free_settings()}
    fingerprint = getattr(batches, "fingerprint", None)
    said = {
        "loop": {**loop, "clip_norm": str(config.clip_norm)},  # JSON has no infinity
        "data": fingerprint() if fingerprint else None,
        "settings": dict(settings or {}),
    }
    return json.loads(json.dumps(said, default=str))


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], step: int) -> None:
    """Raises ResumeError naming what differs between two identities, `step` steps into a run.

    Settings of the schedule may differ as long as no rate up to `step` would have been another:
    a constant run, or a wsd run before its decay, can be made longer.
    """
    found = [*_differences(before["loop"], now["loop"], ""),
             *_differences(before["settings"], now["settings"], "")]  # fmt: skip
    same_past = _rates(before["loop"], step) == _rates(now["loop"], step)
    for name, old, new in found:
        if not (name in _RATE and same_past):
            raise ResumeError(
                f"{name} is {new!r} but was {old!r} in the checkpoint of step {step}: set it back, "
                "start in another folder, or take resume=anyway"
            )
    if before["data"] != now["data"]:
        raise ResumeError(
            f"the data is not what it was at the checkpoint of step {step} (fingerprint "
            f"{str(now['data'])[:12]}, was {str(before['data'])[:12]}): bring it back, start in "
            "another folder, or take resume=anyway"
        )


def _differences(before: Any, now: Any, name: str):
    """(name, old, new) of every leaf that differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            inner = f"{name}.{key}" if name else key
            yield from _differences(before.get(key), now.get(key), inner)
    elif before != now:
        yield name, before, now


def _rates(loop: Mapping[str, Any], step: int) -> list[float]:
    """Learning rates at up to 65 of the steps that were made, the last one included."""
    config = replace(LoopConfig(num_steps=1), **{name: loop[name] for name in _RATE})
    past = sorted({step * i // 64 for i in range(64)} | {max(0, step - 1)})
    return [learning_rate(number, config) for number in past if number < step]
