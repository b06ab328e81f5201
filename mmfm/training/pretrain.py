"""From a recipe and shards to a bundle: what `mmfm train` does.

FOLDER/recipe.json     the settings
FOLDER/...             checkpoints and logs of the loop
FOLDER/bad-RANK.jsonl  samples that could not be used, if there were any
FOLDER/bundle/         the averaged weights, for `mmfm.load`
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from mmfm.config import ModelConfig, to_dict
from mmfm.data.bad import BadSamples, SampleError
from mmfm.data.crop import RandomCrop
from mmfm.data.dataset import ShardDataset
from mmfm.data.loader import Loader
from mmfm.data.order import ShuffledShards
from mmfm.data.sample import Sample
from mmfm.device import pick_device
from mmfm.durable import replacing
from mmfm.encoders.backbone import Backbone
from mmfm.errors import DataError, InputError, OutputError
from mmfm.training.contrastive import ContrastiveTask
from mmfm.training.distributed import World, join
from mmfm.training.recipe import Recipe

RECIPE = "recipe.json"
BUNDLE = "bundle"
_MEASURED_AT_ONCE = 256  # held-out pairs


def build_backbone(recipe: Recipe) -> Backbone:
    """The model of a recipe with its first random weights: a function of `loop.seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.loop.seed)
        backbone = Backbone.from_config(recipe.backbone)
    if recipe.checkpoint_activations:
        backbone.towers.set_grad_checkpointing()
    return backbone


class CaptionedShards(ShardDataset):
    """Shards in which a sample without a caption is a bad sample."""

    def read(self, row: int) -> Sample:
        sample = super().read(row)
        if not any(caption.strip() for caption in sample.captions):
            shard = self.shards[self.locate(row)[0]]
            text = f"{shard}: sample {sample.key!r} has no caption; pairs need one"
            raise SampleError(text, shard, sample.key, "no-caption")
        return sample


def _open(name: str, source: str, bad: BadSamples | None = None) -> ShardDataset:
    plain = "://" not in source and not set(source) & set("*?[{")
    if plain and not Path(source).exists():
        raise DataError(f"there is no {source!r}; give {name}= a folder, pattern or URL of shards")
    return CaptionedShards.open(source, bad=bad)


def open_data(recipe: Recipe, ranks: int = 1, bad: BadSamples | None = None) -> ShardDataset:
    """The shards to train on. Raises DataError when there are none, or too few for a batch."""
    if not recipe.data:
        raise DataError("the recipe names no data; add data=FOLDER, a pattern or a URL of shards")
    dataset = _open("data", recipe.data, bad)
    for what, least in ((f"the {ranks} processes", ranks),
                        (f"batch_size={recipe.batch_size}", recipe.batch_size)):  # fmt: skip
        if len(dataset) < least:
            raise DataError(
                f"{recipe.data} holds {len(dataset)} samples, fewer than {what}; give more shards "
                "or make that smaller"
            )
    return dataset


class TrainingData(Loader):
    """The batches that a recipe trains on; this process's share of each."""

    def __init__(
        self, recipe: Recipe, dataset: ShardDataset, world: World | None = None,
        bad: BadSamples | None = None,
    ) -> None:  # fmt: skip
        world, seed = world or World(), recipe.loop.seed
        order = ShuffledShards(
            dataset.counts, recipe.batch_size, seed, rank=world.rank, world_size=world.size
        )
        augment = RandomCrop(seed, scale=(recipe.crop, 1.0)) if recipe.crop < 1 else None
        super().__init__(
            dataset, order, image_size=recipe.backbone.image_size, on_bad=bad, augment=augment,
            num_workers=recipe.workers,
        )  # fmt: skip


class HeldOut(Loader):
    """`count` evenly spaced samples of shards, in order, in `num_batches` batches."""

    def __init__(self, recipe: Recipe, dataset: ShardDataset, count: int) -> None:
        order = _EvenlySpaced(len(dataset), count)
        self.count, self.num_batches = len(order.rows), order.num_batches
        bad = BadSamples("skip", recipe.max_bad)
        super().__init__(dataset, order, image_size=recipe.backbone.image_size, on_bad=bad)

    @classmethod
    def open(cls, recipe: Recipe) -> HeldOut:
        """Those that the recipe names. Raises DataError when there are none."""
        dataset = _open("held_out", recipe.held_out)
        if not len(dataset):
            raise DataError(f"{recipe.held_out} holds no samples; give other held_out shards")
        return cls(recipe, dataset, recipe.held_out_samples)


class _EvenlySpaced:
    """The order of held-out samples: once, from first to last; the last batch takes the rest."""

    def __init__(self, total: int, count: int) -> None:
        count = min(count, total)
        self.rows = np.arange(count) * total // count
        self.num_batches = -(-count // _MEASURED_AT_ONCE)
        self.share = (0, _MEASURED_AT_ONCE)

    def batch(self, step: int) -> np.ndarray:
        return self.rows[step * _MEASURED_AT_ONCE : (step + 1) * _MEASURED_AT_ONCE]


def pretrain(
    recipe: Recipe, folder: str | Path, *, device: str | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:  # fmt: skip
    """Train (or resume) in `folder` and write the bundle; returns what happened, as JSON types.

    Alone, or as one of the processes that `torchrun` started. Raises InputError subclasses for
    settings and data that cannot be used, and when `folder` holds a run of other settings
    or other data.
    """
    from mmfm.training.loop import train

    started, folder, world = time.monotonic(), Path(folder), join()
    recipe.local_batch(world.size)
    quarantine = folder / "quarantine" if recipe.on_bad == "quarantine" else None
    bad = BadSamples(recipe.on_bad, recipe.max_bad, quarantine)
    dataset = _first_then_others(world, lambda: open_data(recipe, world.size, bad))
    held_out = None
    if recipe.held_out:
        held_out = _first_then_others(world, lambda: HeldOut.open(recipe))
    _first_then_others(world, lambda: _write_recipe(recipe, folder) if world.first else None)
    backbone = build_backbone(recipe).to(pick_device(device))
    task = ContrastiveTask(
        backbone, held_out, captions=recipe.captions, same_caption=recipe.same_caption,
        group=dist.group.WORLD if world.size > 1 else None,
    )  # fmt: skip
    with TrainingData(recipe, dataset, world, bad) as batches:
        best = train(task, batches, recipe.loop, folder, stop, settings=recipe.decides())
    if bad.records:
        bad.write(folder / f"bad-{world.rank}.jsonl")
    found: Counter[str] = sum((Counter(c) for c in world.gather(dict(bad.counts))), Counter())
    summary = {
        "recipe": recipe.name,
        "steps": recipe.loop.num_steps,
        "samples_seen": recipe.samples_seen,
        "samples": len(dataset),
        "processes": world.size,
        "bad_samples": dict(found),
        "bundle": str(folder / BUNDLE),
    }
    if world.first:
        with torch.inference_mode():
            summary["held_out"] = task.evaluate(best)[0]
        _write_bundle(recipe, best, dataset, summary, folder / BUNDLE)
    world.gather(None)  # nobody leaves before the bundle is whole
    return {**summary, "seconds": round(time.monotonic() - started, 1)}


def _write_bundle(
    recipe: Recipe, best: nn.Module, dataset: ShardDataset, summary: dict[str, Any], folder: Path
) -> None:
    from mmfm.model import MMFM

    config = ModelConfig(name=recipe.name, backbone=recipe.backbone)
    metrics = {
        "figures": {"held_out": summary["held_out"]},
        "trained_on": {
            "data": recipe.data,
            "samples": len(dataset),
            "fingerprint": dataset.fingerprint(),
            "recipe": to_dict(recipe),
        },
    }
    device = str(next(best.parameters()).device)
    MMFM(config, best, metrics=metrics, device=device).save_pretrained(folder)


def _write_recipe(recipe: Recipe, folder: Path) -> None:
    """For people: which settings the folder's run has. The loop checks those of its checkpoints."""
    path = folder / RECIPE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(json.dumps(to_dict(recipe), indent=2).encode() + b"\n")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; choose another") from error


def _first_then_others(world: World, work: Callable[[], Any]) -> Any:
    """The first process indexes the shards, the others find the indexes; all fail together."""
    result = error = None
    if world.first:
        try:
            result = work()
        except InputError as wrong:
            error = wrong
    told = world.gather(None if error is None else str(error))[0]
    if told is not None:
        raise error or DataError(told)
    return result if world.first else work()
