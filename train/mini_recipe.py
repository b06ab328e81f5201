"""What decides the weights of `mini`: how much of each stage, how often each drawing is seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from mmfm.config import override
from mmfm.decoder.flow import Times
from mmfm.errors import InputError
from mmfm.training.loop_config import LoopConfig
from train.mini_bundle import EMOJI

if TYPE_CHECKING:
    from mmfm.data.packed import PackedPictures

TRAINED = ("towers", "flow", "refine", "pixels", "few_steps", "matching")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, and where they are computed."""

    device: str | None = None  # None = a GPU where there is one
    size: int = 64
    space: str = "grid"
    batch_size: int = 128
    flow_batch_size: int = 64
    seed: int = 0
    towers: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            num_steps=1500, learning_rate=1e-3, ema_decay=0.995, evaluate_every=250, save_every=100
        )
    )
    flow: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            num_steps=6000, learning_rate=8e-4, evaluate_every=500, save_every=250
        )
    )
    scene_share: float = 0.6  # of the decoder's visits, once there are scenes
    refine_batch_size: int = 128
    refine_times: Times = field(default_factory=lambda: Times(start=0.3))
    refine: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            num_steps=6500, learning_rate=6e-4, schedule="wsd", warmup_steps=50, precision="bf16",
            evaluate_every=1000, save_every=200,
        )
    )  # fmt: skip
    pixels_batch_size: int = 64
    pixels: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            num_steps=4000, learning_rate=1e-3, warmup_steps=50, precision="bf16",
            evaluate_every=500, save_every=200,
        )
    )  # fmt: skip
    num_few_steps: int = 4
    few_steps_guidance: float = 4.5
    few_steps_rank: int = 32
    few_steps_batch_size: int = 32
    few_steps: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            num_steps=150, learning_rate=2e-3, warmup_steps=20, weight_decay=0.0, ema_decay=0.98,
            precision="bf16", log_every=5, evaluate_every=50, save_every=20,
        )
    )  # fmt: skip
    matching: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            num_steps=300, learning_rate=2e-4, schedule="constant", warmup_steps=20,
            weight_decay=0.0, ema_decay=0.98, parts=(("^critic", 5.0),), precision="bf16",
            log_every=5, evaluate_every=50, save_every=20,
        )
    )  # fmt: skip


def for_gpu(recipe: Recipe) -> Recipe:
    """The same for 10 to 25 minutes of one large GPU: larger batches, 6 to 80 times the visits.

    No GPU was at hand when it was written: steps come from arithmetic (docs/experiments.md), and
    rates from those of the CPU by the square root of the batch, at most 2e-3.
    """
    many = {"precision": "bf16", "evaluate_every": 1000, "save_every": 500, "warmup_steps": 200}
    return replace(
        recipe, batch_size=1024, flow_batch_size=1024, refine_batch_size=1024,
        pixels_batch_size=512, few_steps_batch_size=256,
        towers=replace(recipe.towers, num_steps=3000, learning_rate=2e-3, **many),
        flow=replace(recipe.flow, num_steps=8000, learning_rate=1.5e-3, ema_decay=0.999, **many),
        refine=replace(recipe.refine, num_steps=8000, learning_rate=1e-3, ema_decay=0.999, **many),
        pixels=replace(recipe.pixels, num_steps=3000, learning_rate=2e-3, **many),
        few_steps=replace(recipe.few_steps, num_steps=1500, ema_decay=0.99, evaluate_every=500),
        matching=replace(recipe.matching, num_steps=1000, ema_decay=0.99, evaluate_every=500),
    )  # fmt: skip


RECIPES: dict[str, Callable[[Recipe], Recipe]] = {"cpu": lambda recipe: recipe, "gpu": for_gpu}


def sample_weight(meta: dict) -> float:
    """Visits per epoch: emoji carry the names people type; skin tones would drown the rest."""
    if meta["set"] in EMOJI:
        return 0.1 if meta["skin_tone"] else 2.0
    return 0.1 if meta["skin_tone"] else 0.7


def flow_weight(meta: dict) -> float:
    """The decoder of this edition learns emoji first: fewer styles, sharper pictures sooner.

    Of a scene, before all of them get their share of the visits (`flow_weights`).
    """
    if meta["set"] == "scenes":
        return 1.0
    if meta["set"] in EMOJI:
        return 0.05 if meta["skin_tone"] else 1.0
    return 0.0 if meta["skin_tone"] else 0.1


def weights_of(pictures: PackedPictures, weight) -> np.ndarray:
    """One sampling weight per picture."""
    return np.array([weight(meta) for meta in pictures.meta])


def flow_weights(recipe: Recipe, pictures: PackedPictures) -> np.ndarray:
    """(N,) by `flow_weight`, where there are scenes with `scene_share` of the sum for them."""
    weights = weights_of(pictures, flow_weight)
    scenes = np.array([meta["set"] == "scenes" for meta in pictures.meta])
    if scenes.any():
        share = recipe.scene_share
        weights[scenes] *= share / (1 - share) * weights[~scenes].sum() / weights[scenes].sum()
    return weights


def apply_settings(recipe: Recipe, settings: tuple[str, ...]) -> Recipe:
    """`("towers.num_steps=10", "seed=1")` applied; InputError names what is not known."""
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"got {setting!r}, wanted key=value")
        stage, dot, name = key.partition(".")
        if not dot:
            recipe = override(recipe, {key: value})
        elif stage in TRAINED:
            recipe = replace(recipe, **{stage: override(getattr(recipe, stage), {name: value})})
        else:
            raise InputError(f"there is no stage {stage!r}; wanted {' or '.join(TRAINED)}")
    return recipe
