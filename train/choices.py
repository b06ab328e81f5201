"""The choices behind the towers of `mini`, each tried for as long as the other: equal CPU seconds.

    python -m train.choices --data data/drawings -o runs/choices [--seconds 120] [ARM ...]

Every arm is the recipe's joint training (`train.mini`, stage `towers`) with one thing changed, from
fresh weights, until the processor has worked so long; drawings, order and rate are the same. Then
recall, caption loss and PSNR on the validation drawings (one training drawing in twenty, never
trained on). One JSON line an arm. `--seed 1` for another draw of weights and order: what two seeds
differ by is what an arm has to beat. An arm called `128px` needs shards made with `--size 128`.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch

from mmfm.config import CaptionerConfig, ModelConfig, PixelDecoderConfig
from mmfm.errors import InputError
from mmfm.training.loop_config import LoopConfig
from train.captions import read_drawings
from train.mini import emoji_only, fresh_towers
from train.mini_recipe import Recipe, sample_weight, weights_of

if TYPE_CHECKING:
    from mmfm.data.packed import PackedPictures

LOOP = LoopConfig(
    num_steps=1_000_000, learning_rate=1e-3, schedule="constant", warmup_steps=50, ema_decay=0.98,
    log_every=50, evaluate_every=1_000_000, save_every=1_000_000, precision="bf16",
)  # fmt: skip

_STARTS: dict[str, dict[str, float]] = {  # of the scores; SigLIP's (2303.15343, section 3.3)
    "softmax": {}, "sigmoid": {"init_logit_scale": math.log(10), "init_logit_bias": -10.0},
}  # fmt: skip


def with_backbone(
    config: ModelConfig, *, loss: str = "softmax", size: int | None = None, **vision: int
) -> ModelConfig:
    """The config with another loss, picture size, or settings of the image tower; what reads the
    tower's tokens has their new width and number."""
    assert config.captioner is not None and config.pixel_decoder is not None
    backbone = config.backbone
    vision_cfg = {**backbone.model_cfg["vision_cfg"], **vision}
    size = size or vision_cfg["image_size"]
    vision_cfg["image_size"] = size
    width, patch = vision_cfg["width"], vision_cfg["patch_size"]
    captioner: CaptionerConfig = replace(config.captioner, token_width=width)
    pixels: PixelDecoderConfig = replace(
        config.pixel_decoder, token_width=width, patch_size=patch, grid_size=size // patch
    )
    return replace(
        config, captioner=captioner, pixel_decoder=pixels, decoder=None,
        backbone=replace(
            backbone, loss=loss,
            model_cfg={**backbone.model_cfg, **_STARTS[loss], "vision_cfg": vision_cfg},
            preprocess_cfg={**backbone.preprocess_cfg, "size": [size, size]},
        ),
    )  # fmt: skip


ARMS: dict[str, Callable[[ModelConfig], ModelConfig]] = {
    "mini": with_backbone,
    "sigmoid": lambda config: with_backbone(config, loss="sigmoid"),
    "patch8": lambda config: with_backbone(config, patch_size=8),
    "width192": lambda config: with_backbone(config, width=192),
    "width384": lambda config: with_backbone(config, width=384),
    "depth4": lambda config: with_backbone(config, layers=4),
    "depth9": lambda config: with_backbone(config, layers=9),
    "128px": lambda config: with_backbone(config, size=128, patch_size=32),
}


def size_of(arm: str) -> int:
    """Of the pictures that an arm is trained on."""
    return 128 if arm == "128px" else 64


def chosen(arms: Sequence[str], known: Mapping[str, Any]) -> Sequence[str]:
    """The arms asked for. Raises InputError when one of them is not known."""
    if unknown := set(arms) - set(known):
        raise InputError(f"there is no arm {min(unknown)!r}; wanted some of {', '.join(known)}")
    return arms


class Budget:
    """CPU seconds of this process: called before every step, True when they are spent."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.calls: list[float] = []

    def __call__(self) -> bool:
        self.calls.append(time.process_time())
        return self.spent > self.seconds

    @property
    def spent(self) -> float:
        return self.calls[-1] - self.calls[0]

    @property
    def steps(self) -> int:
        return len(self.calls) - 1


def tried(
    arm: str, pictures: PackedPictures, held_out: PackedPictures, seconds: float, seed: int,
    folder: Path,
) -> dict:  # fmt: skip
    """Train one arm for so many CPU seconds; its settings and figures."""
    from mmfm.data.order import Order
    from mmfm.training.loop import train
    from mmfm.training.towers import TowersTask

    recipe = Recipe(seed=seed)
    module, vocabulary, _ = fresh_towers(recipe, pictures, ARMS[arm])
    task = TowersTask(module, vocabulary, pictures, held_out)
    order = Order(weights_of(pictures, sample_weight), recipe.batch_size, seed)
    budget = Budget(seconds)
    best = train(task, order, replace(LOOP, seed=seed), folder / f"{arm}-{seed}", budget)
    with torch.inference_mode():
        numbers, _ = task.evaluate(best.eval())
    return {
        "arm": arm, "seed": seed, "cpu_seconds": round(budget.spent, 1),
        "visits": budget.steps * recipe.batch_size,
        "parameters_of_towers": sum(p.numel() for p in module.backbone.parameters()), **numbers,
    }  # fmt: skip


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("data/drawings"))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("runs/choices"))
@click.option("--seconds", type=float, default=120.0, help="CPU seconds an arm.  [120]")
@click.option("--seed", type=int, default=0)
@click.argument("arms", nargs=-1)
def main(data: Path, output: Path, seconds: float, seed: int, arms: tuple[str, ...]) -> None:
    """Try ARMS, by default all but 128px."""
    torch.set_flush_denormal(True)  # denormals slow CPU kernels many times over
    try:
        wanted = chosen(arms or [arm for arm in ARMS if size_of(arm) == 64], ARMS)
        for size in sorted({size_of(arm) for arm in wanted}):
            pictures, held_out = read_drawings(data, size)
            held_out = emoji_only(held_out)
            held_out = held_out.select(np.arange(min(500, len(held_out))))
            for arm in (arm for arm in wanted if size_of(arm) == size):
                print(json.dumps(tried(arm, pictures, held_out, seconds, seed, output)), flush=True)
    except InputError as error:
        click.echo(f"train.choices: error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
