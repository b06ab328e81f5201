"""The independent judge of generated pictures, from drawings to one small file.

    python -m data_pipelines.drawings -o data/drawings
    python -m train.judge --data data/drawings -o runs/judge
    cp runs/judge/judge.safetensors mmfm/evaluation/judge.safetensors

It sees pictures of the training split alone: the recipe reads every drawing's key and refuses what
the split rule gives to test or unseen. Of the test split only the names are read: classes are the
concepts that an untoned emoji of the test split shows and at least `min_drawings` of the training
split do. One training drawing in twenty (by the hash of its key, salted) is held out to watch the
training. Settings are `loop.num_steps=2000` and so on.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import click
import numpy as np
import torch

from mmfm.config import override
from mmfm.data.packed import PackedPictures
from mmfm.data.shards import read_shards
from mmfm.errors import DataError, InputError
from mmfm.training.loop_config import LoopConfig

EMOJI = ("noto", "noto-v1", "twemoji", "fluent-emoji", "fluent-emoji-flat", "emojione", "fxemoji")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the judge."""

    size: int = 64
    batch_size: int = 64
    min_drawings: int = 2  # untoned emoji of a concept, for it to be a class
    smoothing: float = 0.05
    seed: int = 20260  # not a seed of any backbone's training
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            num_steps=1900, learning_rate=2e-3, schedule="wsd", warmup_steps=50, weight_decay=0.05,
            ema_decay=0.995, precision="bf16", evaluate_every=300, save_every=100,
        )
    )  # fmt: skip


def expect_training_split(pictures: PackedPictures) -> None:
    """Raises DataError when a drawing belongs to test or unseen (the rule of the README)."""
    for meta in pictures.meta:
        if _bucket(meta["concept"], 33) == 0 or _bucket(meta["key"], 20) == 0:
            raise DataError(
                f"{meta['key']} is no training drawing: the judge is trained on the split `train` "
                "alone; pass that folder"
            )


def classes_of(pictures: PackedPictures, asked: set[str], min_drawings: int) -> list[str]:
    """Concepts of `asked` that so many untoned emoji show, sorted."""
    shown = Counter(meta["concept"] for meta in pictures.meta if is_plain_emoji(meta))
    return sorted(name for name in asked if shown[name] >= min_drawings)


def concepts_in(folder: Path) -> set[str]:
    """What the untoned emoji of a split are called; their pictures are not decoded."""
    return {s.meta["concept"] for s in read_shards(folder) if is_plain_emoji(s.meta)}


def is_plain_emoji(meta: dict) -> bool:
    """Whether a drawing is of the emoji families, without a skin tone."""
    return meta["set"] in EMOJI and not meta["skin_tone"]


def visits(meta: dict) -> float:
    """Of a drawing in an epoch: emoji first; toned hands and other sets' drawings now and then."""
    if meta["skin_tone"]:
        return 0.1
    return 1.0 if meta["set"] in EMOJI else 0.5


def is_watched(key: str) -> bool:
    """Whether a training drawing is held out to watch the training."""
    return _bucket(f"judge:{key}", 20) == 0


def _bucket(text: str, count: int) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % count


def split_watched(pictures: PackedPictures, classes: list[str]):
    """(to train on, to watch): drawings of the classes; watched are untoned emoji."""
    known = set(classes)
    train, watched = [], []
    for row, meta in enumerate(pictures.meta):
        if meta["concept"] in known:
            if not is_watched(meta["key"]):
                train.append(row)
            elif is_plain_emoji(meta):
                watched.append(row)
    return pictures.select(np.array(train)), pictures.select(np.array(watched))


def train_judge(recipe: Recipe, data: Path, folder: Path) -> Path:
    """Train, or go on; returns the path of the judge."""
    from mmfm.data.order import Order
    from mmfm.evaluation.judge import Judge, JudgeConfig, JudgeNetwork
    from mmfm.training.judge import JudgeTask
    from mmfm.training.loop import train

    pictures = PackedPictures.read(read_shards(data / "train"), recipe.size)
    expect_training_split(pictures)
    classes = classes_of(pictures, concepts_in(data / "test"), recipe.min_drawings)
    seen, watched = split_watched(pictures, classes)
    config = JudgeConfig(num_classes=len(classes), image_size=recipe.size)
    torch.manual_seed(recipe.seed)
    network = JudgeNetwork(config).to(memory_format=torch.channels_last)
    task = JudgeTask(network, classes, seen, watched, smoothing=recipe.smoothing)
    order = Order(np.array([visits(m) for m in seen.meta]), recipe.batch_size, recipe.seed)
    print(f"{len(seen)} drawings of {len(classes)} concepts, {order.epoch_size} visits an epoch, "
          f"{len(watched)} watched", file=sys.stderr)  # fmt: skip
    best = train(task, order, replace(recipe.loop, seed=recipe.seed), folder)
    with torch.inference_mode():
        figures, _ = task.evaluate(best)
    origin = {
        "command": "python -m train.judge",
        "recipe": asdict(recipe),
        "drawings": len(seen),
        "keys_sha256": hashlib.sha256(
            "\n".join(sorted(meta["key"] for meta in seen.meta)).encode()
        ).hexdigest(),
        "split": "train",
        "figures": figures,
    }
    path = Judge(config, best, classes, origin).save(folder / "judge.safetensors")
    print(json.dumps(figures))
    return path


def apply_settings(recipe: Recipe, settings: tuple[str, ...]) -> Recipe:
    """`("loop.num_steps=10", "seed=1")` applied; InputError names what is not known."""
    pairs = [setting.partition("=") for setting in settings]
    for key, equals, _ in pairs:
        if not equals:
            raise InputError(f"got {key!r}, wanted key=value")
    return override(recipe, {key: value for key, _, value in pairs})


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("data/drawings"))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("runs/judge"))
@click.argument("settings", nargs=-1)
def main(data: Path, output: Path, settings: tuple[str, ...]) -> None:
    """Train the judge on the drawings in --data; SETTINGS are key=value."""
    torch.set_flush_denormal(True)  # denormals slow CPU kernels many times over
    try:
        train_judge(apply_settings(Recipe(), settings), data, output)
    except InputError as error:
        click.echo(f"train.judge: error: {error}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
