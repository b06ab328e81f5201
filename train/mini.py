"""The shipped weights `mini`, from drawings to bundle, on two CPU cores.

    python -m data_pipelines.drawings -o data/drawings
    python -m data_pipelines.scenes data/drawings -o data/scenes
    python -m train.mini --data data/drawings --scenes data/scenes -o runs/mini

Stage `towers`: both towers, caption head and pixel decoder jointly. Stage `flow`: the decoder on
cached embeddings of the frozen towers; `refine` goes on with it in bf16, composed scenes among the
drawings. Stage `pixels`: the pixel decoder alone, on what the frozen tower saw. Stage `few_steps`:
the guided flow distilled into four evaluations, an adapter beside it; `matching`: the same adapter,
by what it draws. Each stage logs to `runs/mini/STAGE` (log.jsonl, sample sheets, TensorBoard),
saves checkpoints there and resumes from the newest. Then the bundle is written to
`runs/mini/bundle` with its figures on the held-out splits, its card, and what its training took
(`train/mini_bundle.py`). `--recipe gpu` is for minutes of a GPU in place of hours of two cores.
Settings are `towers.num_steps=2000` and so on (`train/mini_recipe.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import torch

from mmfm.config import ModelConfig
from mmfm.data.packed import PackedPictures
from mmfm.data.shards import read_shards
from mmfm.device import pick_device
from mmfm.errors import InputError
from mmfm.training.compute import read_stages
from train.mini_bundle import EMOJI, logged_stages, write_bundle
from train.mini_recipe import (
    RECIPES,
    TRAINED,
    Recipe,
    apply_settings,
    flow_weights,
    sample_weight,
    weights_of,
)

if TYPE_CHECKING:
    from mmfm.captioner.vocabulary import Vocabulary
    from mmfm.decoder.decoder import ImageDecoder
    from mmfm.model import MMFM
    from mmfm.training.flow import FlowData
    from mmfm.training.towers import Towers


def read_split(data: Path, split: str, size: int, scenes: Path | None = None) -> PackedPictures:
    """All drawings of a split, decoded, and the composed scenes after them."""
    pictures = PackedPictures.read(read_shards(data / split), size)
    if scenes is None:
        return pictures
    return pictures.joined(PackedPictures.read(read_shards(scenes / split), size))


def emoji_only(pictures: PackedPictures) -> PackedPictures:
    """The untoned emoji of a split: what progress is measured on."""
    wanted = [m["set"] in EMOJI and not m["skin_tone"] for m in pictures.meta]
    return pictures.select(np.flatnonzero(wanted))


def fresh_towers(
    recipe: Recipe, pictures: PackedPictures,
    changed: Callable[[ModelConfig], ModelConfig] = lambda config: config,
) -> tuple[Towers, Vocabulary, ModelConfig]:  # fmt: skip
    """Fresh parts of stage one: (module, vocabulary, config); `changed` may alter the last."""
    from mmfm.captioner.network import Captioner
    from mmfm.captioner.vocabulary import Vocabulary
    from mmfm.decoder.pixels import PixelDecoder
    from mmfm.encoders.backbone import Backbone
    from mmfm.presets import mini
    from mmfm.training.towers import Towers, caption_pair

    torch.manual_seed(recipe.seed)
    config = changed(mini(1, recipe.space))
    backbone = Backbone.from_config(config.backbone)
    texts = {
        text
        for captions, meta in zip(pictures.captions, pictures.meta, strict=True)
        for draw in (0.0, 0.8, 0.9, 0.95)
        for text in caption_pair(captions, meta, draw)
    }
    vocabulary = Vocabulary.build(sorted(texts), backbone.tokenizer, min_count=1)
    config = replace(config, captioner=replace(config.captioner, vocab_size=len(vocabulary)))
    module = Towers(backbone, Captioner(config.captioner), PixelDecoder(config.pixel_decoder))
    return module, vocabulary, config


def train_towers(recipe: Recipe, data: Path, folder: Path) -> None:
    """Stage one; leaves the averaged weights as the bundle `folder/bundle`, without a decoder."""
    from mmfm.data.order import Order
    from mmfm.model import MMFM
    from mmfm.training.loop import train
    from mmfm.training.towers import TowersTask

    pictures = read_split(data, "train", recipe.size)
    held_out = emoji_only(read_split(data, "test", recipe.size))
    module, vocabulary, config = fresh_towers(recipe, pictures)
    task = TowersTask(module.to(pick_device(recipe.device)), vocabulary, pictures, held_out)
    order = Order(weights_of(pictures, sample_weight), recipe.batch_size, recipe.seed)
    print(f"{len(pictures)} drawings, {order.epoch_size} visits an epoch, "
          f"{len(vocabulary)} caption tokens", file=sys.stderr)  # fmt: skip
    best = train(task, order, replace(recipe.towers, seed=recipe.seed), folder)
    MMFM(
        replace(config, decoder=None), best.backbone, captioner=best.captioner,
        vocabulary=vocabulary, pixel_decoder=best.pixel_decoder, device="cpu",
    ).save_pretrained(folder / "bundle")  # fmt: skip


@dataclass(frozen=True)
class FlowParts:
    """What the stages of the decoder train with."""

    model: MMFM
    decoder: ImageDecoder
    seen: FlowData
    held_out: FlowData
    weights: np.ndarray  # (N,) visits an epoch

    def save(self, folder: Path) -> None:
        """The whole model with this decoder as a bundle."""
        from mmfm.model import MMFM

        model = self.model
        MMFM(
            replace(model.config, decoder=self.decoder.config),
            model.backbone, captioner=model.captioner, vocabulary=model.vocabulary,
            pixel_decoder=model.pixel_decoder, decoder=self.decoder,
            attribution=model.attribution, device="cpu",
        ).save_pretrained(folder)  # fmt: skip


def flow_parts(
    recipe: Recipe, data: Path, scenes: Path | None, bundle: Path, fresh: bool, **changes
) -> FlowParts:
    """The model of a bundle with a decoder, its own or a fresh one, and the cached drawings.

    changes: settings of the decoder that are not the bundle's, such as few_steps=4.
    """
    from mmfm.decoder.decoder import ImageDecoder
    from mmfm.model import MMFM
    from mmfm.presets import mini
    from mmfm.training.flow import FlowData

    model = MMFM.from_pretrained(bundle, device=recipe.device)
    pictures = read_split(data, "train", recipe.size, scenes)
    weights = flow_weights(recipe, pictures)
    pictures, weights = pictures.select(np.flatnonzero(weights)), weights[weights > 0]
    torch.manual_seed(recipe.seed)
    config = mini(space=recipe.space).decoder if fresh else model.config.decoder
    decoder = ImageDecoder(replace(config, **changes), model.pixel_decoder).to(model.device)
    if not fresh:
        # what is not in the bundle, a new adapter, stays as it starts
        decoder.load_state_dict(model.decoder.state_dict(), strict=False)
    with torch.no_grad():
        seen = FlowData(model.backbone, decoder, pictures)
        if fresh:
            seen.fit_space()
        held_out = FlowData(
            model.backbone, decoder, emoji_only(read_split(data, "test", recipe.size))
        )
    print(f"{len(pictures)} drawings", file=sys.stderr)
    return FlowParts(model, decoder, seen, held_out, weights)


def train_flow(recipe: Recipe, data: Path, scenes: Path | None, before: Path, folder: Path) -> None:
    """Stages two and three: the flow from nothing on the towers of `before`, or refined from its,
    when there are scenes. Leaves the whole model as `folder/bundle`.
    """
    from mmfm.data.order import Order
    from mmfm.presets import mini
    from mmfm.training.flow import FlowTask
    from mmfm.training.loop import train
    from mmfm.training.places import Places

    refine = scenes is not None
    depth = mini(space=recipe.space).decoder.text_depth  # older bundles have none
    parts = flow_parts(recipe, data, scenes, before / "bundle", fresh=not refine, text_depth=depth)
    reader = parts.decoder.network.conditioner.reader
    places = Places(parts.model.backbone, parts.seen) if refine and reader is not None else None
    task = FlowTask(
        parts.decoder, parts.seen, parts.held_out,
        times=recipe.refine_times if refine else None,
        beside=None if places is None else partial(places.loss, reader),
    )  # fmt: skip
    size = recipe.refine_batch_size if refine else recipe.flow_batch_size
    seed = recipe.seed + refine
    loop = replace(recipe.refine if refine else recipe.flow, seed=seed)
    best = train(task, Order(parts.weights, size, seed), loop, folder)
    replace(parts, decoder=best).save(folder / "bundle")


def train_pixels(recipe: Recipe, data: Path, scenes: Path, before: Path, folder: Path) -> None:
    """Stage four: the pixel decoder of `before` alone, every drawing and scene alike often."""
    from mmfm.data.order import Order
    from mmfm.model import MMFM
    from mmfm.training.loop import train
    from mmfm.training.reconstruction import ReconstructionData, ReconstructionTask
    from mmfm.training.seen import SeenInMemory

    model = MMFM.from_pretrained(before / "bundle", device=recipe.device)
    seen, held_out = (
        ReconstructionData(SeenInMemory.of_pictures(model.backbone, pictures), pictures)
        for pictures in (
            read_split(data, "train", recipe.size, scenes),
            emoji_only(read_split(data, "test", recipe.size)),
        )
    )
    task = ReconstructionTask(model.pixel_decoder, seen, held_out)
    order = Order(np.ones(len(seen.pictures)), recipe.pixels_batch_size, recipe.seed)
    best = train(task, order, replace(recipe.pixels, seed=recipe.seed), folder)
    model.pixel_decoder.load_state_dict(best.state_dict())
    model.save_pretrained(folder / "bundle")


def train_few_steps(
    recipe: Recipe, data: Path, scenes: Path, before: Path, folder: Path, matching: bool = False
) -> None:
    """Stages five and six: the guided flow of `before` distilled into `few_steps` evaluations, and
    these made to draw, by distribution, what it draws.
    """
    from mmfm.data.order import Order
    from mmfm.training.few_steps import FewStepsTask
    from mmfm.training.loop import train
    from mmfm.training.matching import MatchingTask

    parts = flow_parts(
        recipe, data, scenes, before / "bundle", fresh=False, few_steps=recipe.num_few_steps,
        few_steps_guidance=recipe.few_steps_guidance, few_steps_rank=recipe.few_steps_rank,
    )  # fmt: skip
    kind = MatchingTask if matching else FewStepsTask
    task = kind(parts.decoder, parts.seen, parts.held_out)
    seed, loop = recipe.seed + 1 + matching, recipe.matching if matching else recipe.few_steps
    order = Order(parts.weights, recipe.few_steps_batch_size, seed)
    best = train(task, order, replace(loop, seed=seed), folder)
    adapter = best["few_steps"] if matching else best
    parts.decoder.few_steps.load_state_dict(adapter.state_dict())
    parts.save(folder / "bundle")


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("data/drawings"))
@click.option("--scenes", type=click.Path(path_type=Path), default=Path("data/scenes"))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("runs/mini"))
@click.option("--stage", type=click.Choice([*TRAINED, "bundle", "all"]), default="all")
@click.option("--recipe", "budget", type=click.Choice([*RECIPES]), default="cpu",
              help="Hours of two cores, or minutes of a GPU.  [cpu]")  # fmt: skip
@click.option("--device", help="Where to compute.  [a GPU where there is one]")
@click.option("--bundle", type=click.Path(path_type=Path), help="what stage `bundle` takes")
@click.option("--stages", type=click.Path(path_type=Path), help="JSON of how the weights were "
              "trained, as for train.compute.  [the logs that are there]")  # fmt: skip
@click.option("--hardware", default="", help="Of the stages that logs tell, in words.")
@click.option("--quick", is_flag=True, help="Measure retrieval, captions, reconstruction alone.")
@click.argument("settings", nargs=-1)
def main(
    data: Path, scenes: Path, output: Path, stage: str, budget: str, device: str | None,
    bundle: Path | None, stages: Path | None, hardware: str, quick: bool,
    settings: tuple[str, ...],
) -> None:  # fmt: skip
    """Train mini from the shards in --data and --scenes; SETTINGS are key=value."""
    torch.set_flush_denormal(True)  # denormals slow CPU kernels many times over
    try:
        recipe = apply_settings(RECIPES[budget](Recipe(device=device)), settings)
        if stage in ("towers", "all"):
            train_towers(recipe, data, output / "towers")
        if stage in ("flow", "all"):
            train_flow(recipe, data, None, output / "towers", output / "flow")
        if stage in ("refine", "all"):
            train_flow(recipe, data, scenes, output / "flow", output / "refine")
        if stage in ("pixels", "all"):
            train_pixels(recipe, data, scenes, output / "refine", output / "pixels")
        if stage in ("few_steps", "all"):
            train_few_steps(recipe, data, scenes, output / "pixels", output / "few_steps")
        if stage in ("matching", "all"):
            train_few_steps(recipe, data, scenes, output / "few_steps", output / "matching", True)
        if stage in ("bundle", "all"):
            bundle = bundle or output / "matching" / "bundle"
            logs = [*(output / name for name in TRAINED), bundle.parent / "head"]
            told = logged_stages(logs, hardware) if stages is None else read_stages(stages)
            write_bundle(recipe, data, scenes, bundle, output / "bundle", told, quick)
    except InputError as error:
        click.echo(f"train.mini: error: {error}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
