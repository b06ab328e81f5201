"""The choices behind the decoder of `mini`, each tried for as long as the other: equal CPU seconds.

    python -m train.flow_choices --data data/drawings -o runs/choices [--seconds 120] [ARM ...]

Every arm trains a fresh flow on the frozen towers of `mini`, with one thing changed, until the
processor has worked so long; drawings (untoned emoji), order and rate are the same. Then the
velocity loss of the averaged weights at three noise levels, on validation emoji asked for by name.
Losses are comparable within a space. One JSON line an arm.

    grid   x (as shipped), v: what the network predicts; width192, width384; depth1, depth3;
           shift1: noise levels without the shift; uniform: their law
    pixel  pixel (x again), aligned: to the backbone's tokens (REPA, 2410.06940); dropped: half of
           the places go round the attention of the coarsest level (TREAD, 2501.04765)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfm.decoder.decoder import ImageDecoder
from mmfm.decoder.flow import Times
from mmfm.errors import InputError
from mmfm.layers.blocks import MapAttention
from mmfm.layers.patches import map_to_tokens
from mmfm.presets import mini
from mmfm.training.flow import FlowData, FlowTask
from mmfm.training.seen import tokens_of
from train.captions import read_drawings
from train.choices import LOOP, Budget, chosen
from train.mini import emoji_only

if TYPE_CHECKING:
    from mmfm.model import MMFM

BATCH = 128
ALIGNMENT = 0.5  # weight, REPA's


class AlignedTask(FlowTask):
    """The flow loss, and the cosine of the coarsest map going down to the backbone's tokens."""

    def __init__(self, decoder: ImageDecoder, train: FlowData, held_out: FlowData) -> None:
        super().__init__(decoder, train, held_out)
        width = decoder.network.width
        self.projection = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        decoder.add_module("projection", self.projection)  # trained with it, never used again
        self.maps: list[Tensor] = []
        decoder.network.down[-1][-1].register_forward_hook(
            lambda layer, given, made: self.maps.append(made)
        )

    def loss(self, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, dict]:
        self.maps.clear()
        loss, parts = super().loss(rows, generator)
        wanted = tokens_of(self.train.seen.take(rows))  # (B, N, E), as many places as the map has
        said = self.projection(map_to_tokens(self.maps[0]))
        cosine = F.cosine_similarity(said.float(), wanted.float(), dim=-1).mean()
        return loss + ALIGNMENT * (1 - cosine), {**parts, "cosine": cosine.detach()}


def go_round(layer: MapAttention) -> None:
    """While it trains, half of the places pass the layer by, drawn anew for each picture."""
    whole = layer.forward

    def forward(x: Tensor, *given: Any) -> Tensor:
        if not layer.training:
            return whole(x, *given)
        tokens = map_to_tokens(x)
        places = torch.rand(tokens.shape[:2]).argsort(dim=1)[:, : tokens.shape[1] // 2]
        places = places[..., None].expand(-1, -1, tokens.shape[2])
        part = tokens.gather(1, places).transpose(1, 2)[..., None]  # a map of one column
        tokens = tokens.scatter(1, places, map_to_tokens(whole(part, *given)))
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])

    layer.forward = forward


def drop_places(decoder: ImageDecoder) -> None:
    """`go_round` for all attention of the coarsest level."""
    for level in (decoder.network.down[-1], decoder.network.up[-1]):
        for layer in level:
            if isinstance(layer, MapAttention):
                go_round(layer)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One thing changed."""

    space: str = "grid"
    settings: dict[str, Any] = field(default_factory=dict)  # of DecoderConfig
    times: Times = field(default_factory=Times)
    task: Callable[..., FlowTask] = FlowTask
    prepare: Callable[[ImageDecoder], None] = lambda decoder: None


ARMS = {
    "x": Arm(),
    "v": Arm(settings={"prediction": "v"}),
    "width192": Arm(settings={"widths": (192,)}),
    "width384": Arm(settings={"widths": (384,)}),
    "depth1": Arm(settings={"depths": (1,)}),
    "depth3": Arm(settings={"depths": (3,)}),
    "shift1": Arm(settings={"shift": 1.0}),
    "uniform": Arm(times=Times(law="uniform")),
    "pixel": Arm(space="pixel"),
    "aligned": Arm(space="pixel", task=AlignedTask),
    "dropped": Arm(space="pixel", prepare=drop_places),
}


def tried(
    arm: str, model: MMFM, parts: tuple[Any, Any], seconds: float, seed: int, folder: Path
) -> dict:
    """Train one arm for so many CPU seconds; its settings and figures."""
    from mmfm.data.order import Order
    from mmfm.training.loop import train

    chosen = ARMS[arm]
    torch.manual_seed(seed)
    config = mini(space=chosen.space).decoder
    assert config is not None
    decoder = ImageDecoder(replace(config, **chosen.settings), model.pixel_decoder)
    with torch.no_grad():
        seen, held_out = (
            FlowData(model.backbone, decoder, pictures, kept) for pictures, kept in parts
        )
        seen.fit_space()
    chosen.prepare(decoder)
    task = chosen.task(decoder, seen, held_out)
    if chosen.task is FlowTask:
        task.times = chosen.times
    budget = Budget(seconds)
    order = Order(np.ones(len(seen.pictures)), BATCH, seed)
    best = train(task, order, replace(LOOP, seed=seed), folder / f"{arm}-{seed}", budget)
    with torch.inference_mode():
        numbers, sheets = task.evaluate(best.eval())
    sheets["samples"].save(folder / f"{arm}-{seed}.png")
    return {
        "arm": arm, "space": chosen.space, "seed": seed, "cpu_seconds": round(budget.spent, 1),
        "visits": budget.steps * BATCH,
        "parameters": sum(p.numel() for p in decoder.network.parameters()), **numbers,
    }  # fmt: skip


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("data/drawings"))
@click.option("--model", default="mini", help="Whose frozen towers.  [mini]")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("runs/choices"))
@click.option("--seconds", type=float, default=120.0, help="CPU seconds an arm.  [120]")
@click.option("--seed", type=int, default=0)
@click.argument("arms", nargs=-1)
def main(
    data: Path, model: str, output: Path, seconds: float, seed: int, arms: tuple[str, ...]
) -> None:
    """Try ARMS, by default all."""
    import mmfm
    from mmfm.training.seen import SeenInMemory

    torch.set_flush_denormal(True)  # denormals slow CPU kernels many times over
    try:
        wanted = chosen(arms or [*ARMS], ARMS)
        whole = mmfm.load(model, device="cpu")
        pictures = [emoji_only(part) for part in read_drawings(data, whole.image_size)]
        with torch.inference_mode():
            parts = tuple(
                (part, SeenInMemory.of_pictures(whole.backbone, part, grids=True))
                for part in pictures
            )
        for arm in wanted:
            print(json.dumps(tried(arm, whole, parts, seconds, seed, output)), flush=True)
    except InputError as error:
        click.echo(f"train.flow_choices: error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
