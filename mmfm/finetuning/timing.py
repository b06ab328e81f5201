"""The plan of a fine-tuning: each stage's step timed on a few of its own pictures."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmfm.finetuning.looking import look
from mmfm.finetuning.material import Material
from mmfm.finetuning.original import Original
from mmfm.finetuning.plan import Plan, Stage, disk_of, expect_room, memory_of, pace, share_of
from mmfm.finetuning.stages import Tuning
from mmfm.training.flow import FlowTask
from mmfm.training.seen import tokens_of

_FEW = 48  # pictures on which a step is timed
_MEASURING = 0.12  # seconds to measure a picture, before and after, beyond encoding it
_TRIALS = 40  # pictures' worth of encoding, to choose a precision; for the model before and after
_PASSES = 5  # over all weights: copied, hashed, written twice, read again
_SAVES = 40  # over what a stage trains: eight checkpoints of four tensors each, and its best ones


def plan_for(tuning: Tuning, output: Path, copying: float) -> Plan:
    """Of a tuning that has not begun; its model is used up, so give it a copy.

    copying: seconds that the copy took, which tell what the weights cost to move. Raises what
    `expect_room` raises.
    """
    choices, material = tuning.choices, tuning.material
    counts = {"to learn from": len(material.new), "held out": len(material.held_out)}
    if material.original is not None:
        counts["original to practise"] = len(material.original.practice)
        counts["original to measure"] = len(material.original.exam)
    small = replace(tuning, material=_small(material), told={})
    model, start = small.model, time.perf_counter()
    seen = look(model.backbone, small.material.new.squares)
    encoding = (time.perf_counter() - start) / len(small.material.new)
    grid = tokens_of(seen.views[0].take(np.array([0]))).numel()
    # why before the timing: what does not fit must not be tried
    total, trained = sum(counts.values()), [n for n in model.parts if _learns(n, tuning)]
    memory = memory_of(
        model.parts, trained, num_pictures=total, grid=grid, side=model.image_size,
        views=choices.num_views, batch=choices.batch_size,
    )  # fmt: skip
    disk = disk_of(model.parts, trained)
    expect_room(memory, disk, output)
    stages = _stages(small)
    looks = (total * (choices.num_views + 4) + 2 * _TRIALS) * encoding
    moves = copying * (_PASSES + _SAVES * share_of(model.parts, trained))
    measured = len(material.held_out) + counts.get("original to measure", 0)
    other = looks + moves + 2 * _MEASURING * measured
    return Plan(counts, stages, other / 60, memory, disk, choices.to_dict())


def _stages(small: Tuning) -> list[Stage]:
    choices, found = small.choices, []

    def add(name: str, steps: int, task, rows) -> None:
        batch = rows.batch(0)
        seconds = pace(task, batch, choices.precision) * choices.batch_size / len(batch)
        found.append(Stage(name, steps, seconds))

    if choices.trains_towers:
        add("towers", choices.tower_steps, *small.adaptation())
    elif choices.tower_steps:
        add("projections", choices.tower_steps, *small.projection())
    small.model.backbone.requires_grad_(False)
    if choices.tower_steps and not small.lora and (words := small.new_words()) is not None:
        add("new words", small.word_steps, *words)
    if choices.caption_steps:
        add("captions", choices.caption_steps, *small.captions())
    if choices.pixel_steps:
        add("pixels", choices.pixel_steps, *small.pixels())
    if choices.flow_steps:
        decoder = small.model.decoder
        seen, held, rows = small.flow_data()
        add("flow", choices.flow_steps, FlowTask(decoder, seen, held), rows)
    return found


def _learns(part: str, tuning: Tuning) -> bool:
    choices = tuning.choices
    return {
        "backbone": choices.trains_towers, "captioner": choices.caption_steps > 0,
        "pixel_decoder": choices.pixel_steps > 0, "decoder": choices.flow_steps > 0,
    }.get(part, False)  # fmt: skip


def _small(material: Material) -> Material:
    """A few pictures of each kind, captioned ones where there are some."""
    new = material.captioned if len(material.captioned) else material.new
    held = material.measured if len(material.measured) else material.held_out
    original = material.original
    if original is not None:
        original = Original(_first(original.practice, 8), _first(original.exam, 8), original.name)
    return Material(_first(new, _FEW), _first(held, 8), original)


def _first(pictures, count: int):
    return pictures.select(range(min(count, len(pictures))))
