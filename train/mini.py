"""The shipped weights `mini`, from drawings to bundle, on two CPU cores.

    python -m data_pipelines.drawings -o data/drawings
    python -m train.mini --data data/drawings -o runs/mini

Stage `towers`: both towers, caption head and pixel decoder jointly. Stage `flow`: the decoder on
cached embeddings of the frozen towers. Each stage logs to `runs/mini/STAGE` (log.jsonl, TensorBoard,
sample sheets), saves checkpoints there and resumes from the newest. Then the bundle is written to
`runs/mini/bundle` with its figures on the test split. Settings: `towers.num_steps=2000` and so on.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import torch

from mmfm.config import DecoderConfig, override
from mmfm.data.packed import PackedPictures
from mmfm.data.shards import read_shards
from mmfm.errors import InputError
from mmfm.training.loop import LoopConfig

EMOJI = ("noto", "noto-v1", "twemoji", "fluent-emoji", "fluent-emoji-flat", "emojione", "fxemoji")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights."""

    size: int = 64
    space: str = "pixel"
    batch_size: int = 128
    flow_batch_size: int = 64
    seed: int = 0
    towers: LoopConfig = field(default_factory=lambda: LoopConfig(
        num_steps=1800, learning_rate=1e-3, ema_decay=0.995, evaluate_every=300, save_every=100))
    flow: LoopConfig = field(default_factory=lambda: LoopConfig(
        num_steps=5000, learning_rate=6e-4, evaluate_every=500, save_every=250))


def sample_weight(meta: dict) -> float:
    """Visits per epoch: emoji carry the names people type; their skin tones would drown the rest."""
    if meta["set"] in EMOJI:
        return 0.1 if meta["skin_tone"] else 2.0
    return 0.1 if meta["skin_tone"] else 0.7


def flow_weight(meta: dict) -> float:
    """The decoder of this edition learns emoji first: fewer styles, sharper pictures sooner."""
    if meta["set"] in EMOJI:
        return 0.05 if meta["skin_tone"] else 1.0
    return 0.0 if meta["skin_tone"] else 0.1


def read_split(data: Path, split: str, size: int) -> PackedPictures:
    """All drawings of a split, decoded."""
    return PackedPictures.read(read_shards(data / split), size)


def weights_of(pictures: PackedPictures, weight) -> np.ndarray:
    """One sampling weight per picture."""
    return np.array([weight(meta) for meta in pictures.meta])


def emoji_only(pictures: PackedPictures) -> PackedPictures:
    """The untoned emoji of a split: what progress is measured on."""
    rows = [i for i, m in enumerate(pictures.meta) if m["set"] in EMOJI and not m["skin_tone"]]
    return PackedPictures(
        pictures.pixels[rows], [pictures.captions[i] for i in rows], [pictures.meta[i] for i in rows]
    )


def build_towers(recipe: Recipe, pictures: PackedPictures):
    """Fresh parts of stage one: (module, vocabulary, model config)."""
    from mmfm.captioner.network import Captioner
    from mmfm.captioner.vocabulary import Vocabulary
    from mmfm.decoder.pixels import PixelDecoder
    from mmfm.encoders.backbone import Backbone
    from mmfm.presets import mini
    from mmfm.training.towers import Towers, caption_pair

    torch.manual_seed(recipe.seed)
    backbone = Backbone.from_config(mini(1, recipe.space).backbone)
    texts = {
        text
        for captions, meta in zip(pictures.captions, pictures.meta, strict=True)
        for draw in (0.0, 0.8, 0.9, 0.95)
        for text in caption_pair(captions, meta, draw)
    }
    vocabulary = Vocabulary.build(sorted(texts), backbone.tokenizer, min_count=1)
    config = mini(len(vocabulary), recipe.space)
    module = Towers(backbone, Captioner(config.captioner), PixelDecoder(config.pixel_decoder))
    return module, vocabulary, config


def train_towers(recipe: Recipe, data: Path, folder: Path):
    """Stage one; returns (averaged module, vocabulary, model config)."""
    from mmfm.data.order import Order
    from mmfm.training.loop import train
    from mmfm.training.towers import TowersTask

    pictures = read_split(data, "train", recipe.size)
    held_out = emoji_only(read_split(data, "test", recipe.size))
    module, vocabulary, config = build_towers(recipe, pictures)
    task = TowersTask(module, vocabulary, pictures, held_out)
    order = Order(weights_of(pictures, sample_weight), recipe.batch_size, recipe.seed)
    print(f"{len(pictures)} drawings, {order.epoch_size} visits an epoch, "
          f"{len(vocabulary)} caption tokens", file=sys.stderr)  # fmt: skip
    return train(task, order, recipe.towers, folder), vocabulary, config


def apply_settings(recipe: Recipe, settings: tuple[str, ...]) -> Recipe:
    """`("towers.num_steps=10", "seed=1")` applied; InputError names what is not known."""
    from dataclasses import replace

    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"got {setting!r}, wanted key=value")
        stage, dot, name = key.partition(".")
        if not dot:
            recipe = override(recipe, {key: value})
        elif stage in ("towers", "flow"):
            recipe = replace(recipe, **{stage: override(getattr(recipe, stage), {name: value})})
        else:
            raise InputError(f"there is no stage {stage!r}; wanted towers or flow")
    return recipe


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("data/drawings"))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("runs/mini"))
@click.option("--stage", type=click.Choice(["towers", "flow", "bundle", "all"]), default="all")
@click.argument("settings", nargs=-1)
def main(data: Path, output: Path, stage: str, settings: tuple[str, ...]) -> None:
    """Train mini from the shards in --data; SETTINGS are key=value."""
    torch.set_flush_denormal(True)  # denormals slow CPU kernels many times over
    try:
        recipe = apply_settings(Recipe(), settings)
        train_towers(recipe, data, output / "towers")
    except InputError as error:
        click.echo(f"train.mini: error: {error}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
