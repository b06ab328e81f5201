"""The caption head of `mini`, trained alone on its frozen towers: names and ten kinds of prompts.

    python -m data_pipelines.drawings -o data/drawings
    python -m train.captions --data data/drawings -o runs/captions

Stage `embed` runs the image tower over every training drawing, as it is and changed a little, and
over canvases with several copies of one (to learn counting), and keeps what it says in
`runs/captions/seen`. Stage `train` starts from the head that the model has and goes on with the
questions of `mmfm.data.questions`; it logs to `runs/captions/head` and resumes from the newest
checkpoint. Stage `write` leaves `runs/captions/bundle`: the same towers, the new head. One
training drawing in twenty, by the hash of its key, is for validation and never trained on here
(the towers, and the head that is gone on with, had seen it).

Measured: 1,500 steps of 256 (384,000 visits, twelve epochs), about 45 minutes of a third of an AMX
core in bf16, in two pieces: the first planned 1,800 steps, the second ended at 1,500 with
`loop.resume=anyway`. Token F1 against the name, of 894 test drawings of the emoji families: 0.295
before, 0.461 after; word for word 4.3 and 16.8 %; of 1,042 drawings of unseen concepts 0.130 and
0.169. Those weights were trained before the views of a canvas of copies showed the same drawing:
for about 2 in 100 questions the name or colour was another drawing's.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import torch

from mmfm.config import override
from mmfm.data.colours import dominant_colours
from mmfm.data.copies import NUMBERS, with_copies
from mmfm.data.packed import PackedPictures
from mmfm.data.questions import every_text
from mmfm.data.shards import read_shards
from mmfm.errors import InputError
from mmfm.papers import unmeasured
from mmfm.shapes import Embeddings
from mmfm.training.caption import CaptionData, CaptionShares, CaptionTask
from mmfm.training.loop_config import LoopConfig
from mmfm.training.seen import SeenInMemory, SeenViews
from train.mini_recipe import sample_weight

if TYPE_CHECKING:
    from mmfm.captioner.network import Captioner
    from mmfm.captioner.vocabulary import Vocabulary
    from mmfm.model import MMFM

_CHUNK = 256  # pictures encoded at once


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights."""

    model: str = "mini"  # whose towers stay as they are, and whose head is gone on with
    views: int = 3  # of each drawing: as it is, then moved a little or on a light ground
    copies: int = 5000  # canvases with one to six copies of a drawing, each in as many views
    weight_of_copies: float = 0.6  # visits in an epoch
    min_count: int = 3  # a token that the texts use less often is spelled in bytes
    batch_size: int = 256
    seed: int = 0
    shares: CaptionShares = field(
        default_factory=lambda: CaptionShares(grid_drop=0.25, pooled_drop=0.25, token_drop=0.1)
    )
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            num_steps=1500, learning_rate=1e-3, warmup_steps=100, ema_decay=0.995,
            evaluate_every=250, save_every=50, precision="bf16", schedule="wsd",
        )
    )  # fmt: skip


def is_for_validation(meta: dict) -> bool:
    """One training drawing in twenty, by its key; settings are chosen on these, never on test."""
    key = f"validation:{meta['key']}"
    return int(hashlib.sha256(key.encode()).hexdigest(), 16) % 20 == 0


def read_drawings(data: Path, size: int) -> tuple[PackedPictures, PackedPictures]:
    """(to train on, for validation) of the split `train`; meta has the colours of each."""
    pictures = PackedPictures.read(read_shards(data / "train"), size)
    held = np.array([is_for_validation(meta) for meta in pictures.meta])
    parts = [pictures.select(np.flatnonzero(part)) for part in (~held, held)]
    for part in parts:
        for i, meta in enumerate(part.meta):
            part.meta[i] = {**meta, "colours": dominant_colours(part.pixels[i])}
    return parts[0], parts[1]


def add_copies(pictures: PackedPictures, count: int, seed: int, view: int) -> PackedPictures:
    """The drawings, then `count` canvases with one to six copies of some of them.

    view: how the copies lie; which drawings they are of, and how many, is the same in every view.
    """
    chance = np.random.default_rng((seed, count))
    weights = np.array([sample_weight(meta) for meta in pictures.meta])
    rows = chance.choice(len(pictures), count, p=weights / weights.sum())
    numbers = [1 + i % len(NUMBERS) for i in range(count)]
    places = np.random.default_rng((seed, count, view))
    canvases = [
        with_copies(pictures.pixels[row], number, places)
        for row, number in zip(rows, numbers, strict=True)
    ]
    meta = [{**pictures.meta[row], "count": n} for row, n in zip(rows, numbers, strict=True)]
    return PackedPictures(
        np.concatenate([pictures.pixels, *([np.stack(canvases)] if count else [])]),
        [*pictures.captions, *(pictures.captions[row] for row in rows)],
        [*pictures.meta, *meta],
    )


@torch.inference_mode()
def look(model: MMFM, pictures: PackedPictures, view: int, seed: int, path: Path) -> SeenInMemory:
    """What the image tower says of one view of every picture, from `path` where it is kept."""
    from safetensors.torch import load_file, save_file

    from mmfm.training.augment import jitter
    from mmfm.training.seen import tokens_of

    if not path.is_file():
        chance = np.random.default_rng((seed, view))
        generator = torch.Generator().manual_seed(seed * 1000 + view)
        parts = []
        # why bf16: twice as fast, and what it changes is less than what a moved picture changes
        device = model.device
        with torch.autocast(device.type, torch.bfloat16, enabled=view > 0):
            for start in range(0, len(pictures), _CHUNK):
                rows = np.arange(start, min(start + _CHUNK, len(pictures)))
                images = torch.from_numpy(pictures.on_ground(rows))
                if view:
                    images = jitter(images, generator)
                    on_colour = np.flatnonzero(chance.random(len(rows)) < 0.25)
                    grounds = chance.uniform(0.2, 1.0, (len(on_colour), 3))
                    images[on_colour] = torch.from_numpy(
                        pictures.on_ground(rows[on_colour], grounds)
                    )
                said = model.backbone.encode_images(images.to(device)).to("cpu")
                parts.append(Embeddings(said.pooled.float(), tokens_of(said).half()))
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part")
        save_file({"pooled": torch.cat([part.pooled for part in parts]),
                   "tokens": torch.cat([tokens_of(part) for part in parts])}, aside)  # fmt: skip
        aside.replace(path)
    return SeenInMemory(**load_file(path))


def caption_data(
    model: MMFM, pictures: PackedPictures, name: str, recipe: Recipe, views: int, copies: int,
    folder: Path,
) -> CaptionData:  # fmt: skip
    """Drawings and canvases with copies of them, in `views` views, kept in `folder`."""
    seen = []
    for view in range(views):
        every = add_copies(pictures, copies, recipe.seed, view)
        seen.append(look(model, every, view, recipe.seed, folder / f"{name}-{view}.safetensors"))
        print(f"{name}: {len(every)} pictures in view {view + 1} of {views}", file=sys.stderr)
    return CaptionData(SeenViews(seen), every.captions, every.meta)


def build_head(model: MMFM, data: CaptionData, recipe: Recipe) -> tuple[Captioner, Vocabulary]:
    """The model's head with the vocabulary of these texts: rows it knows are taken over."""
    from mmfm.captioner.network import Captioner
    from mmfm.captioner.vocabulary import Vocabulary

    assert model.captioner is not None and model.vocabulary is not None
    names = [captions[0] for captions in data.captions]
    texts = every_text(names, data.meta)
    vocabulary = Vocabulary.build(texts, model.backbone.tokenizer, recipe.min_count)
    torch.manual_seed(recipe.seed)
    head = Captioner(replace(model.captioner.config, vocab_size=len(vocabulary)))
    known = {token: row for row, token in enumerate([*model.vocabulary.to_list(), "start", "end"])}
    state = dict(model.captioner.state_dict())
    rows = head.token_embedding.weight.detach().clone()
    for row, token in enumerate([*vocabulary.to_list(), "start", "end"]):
        if token in known:
            rows[row] = state["token_embedding.weight"][known[token]]
    head.load_state_dict({**state, "token_embedding.weight": rows})
    return head, vocabulary


def train_head(recipe: Recipe, data: Path, folder: Path, device: str | None = None) -> None:
    """Embed what is not embedded yet, train, and write `folder/bundle`.

    device: None = a GPU where there is one.
    """
    import mmfm
    from mmfm.captioner.guesses import guesses_of
    from mmfm.data.order import Order
    from mmfm.training.loop import train

    model = mmfm.load(recipe.model, device=device)
    drawings, validation = read_drawings(data, model.image_size)
    seen = folder / "seen"
    learned = caption_data(
        model, drawings, "train", recipe, recipe.views, recipe.copies, seen
    )  # fmt: skip
    held_out = caption_data(model, validation, "validation", recipe, 1, 600, seen)
    head, vocabulary = build_head(model, learned, recipe)
    head = head.to(model.device)
    task = CaptionTask(head, vocabulary, learned, held_out, recipe.shares, slices=3)
    weights = [
        recipe.weight_of_copies if meta.get("count") else sample_weight(meta)
        for meta in learned.meta
    ]
    order = Order(np.array(weights), recipe.batch_size, recipe.seed)
    print(f"{len(weights)} pictures, {order.epoch_size} visits an epoch, "
          f"{len(vocabulary)} caption tokens", file=sys.stderr)  # fmt: skip
    best = train(task, order, replace(recipe.loop, seed=recipe.seed), folder / "head")
    vocabulary.guesses = guesses_of(vocabulary, [captions[0] for captions in drawings.captions])
    write_bundle(model, best, vocabulary, folder / "bundle")


def write_bundle(model: MMFM, head: Captioner, vocabulary: Vocabulary, folder: Path) -> None:
    """The model with another caption head, in half precision; its figures were another head's."""
    from mmfm.model import MMFM

    MMFM(
        replace(model.config, captioner=head.config), model.backbone, captioner=head,
        vocabulary=vocabulary, pixel_decoder=model.pixel_decoder, decoder=model.decoder,
        metrics=unmeasured(model.metrics), attribution=model.attribution, device="cpu",
    ).save_pretrained(folder, dtype=torch.float16)  # fmt: skip


def apply_settings(recipe: Recipe, settings: tuple[str, ...]) -> Recipe:
    """`("loop.num_steps=10", "views=1")` applied; InputError names what is not known."""
    pairs = [setting.partition("=") for setting in settings]
    for key, equals, _ in pairs:
        if not equals:
            raise InputError(f"got {key!r}, wanted key=value")
    return override(recipe, {key: value for key, _, value in pairs})


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("data/drawings"))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("runs/captions"))
@click.option("--device", help="Where to compute.  [a GPU where there is one]")
@click.argument("settings", nargs=-1)
def main(data: Path, output: Path, device: str | None, settings: tuple[str, ...]) -> None:
    """Train the caption head from the shards in --data; SETTINGS are key=value."""
    torch.set_flush_denormal(True)  # denormals slow CPU kernels many times over
    try:
        train_head(apply_settings(Recipe(), settings), data, output, device)
    except InputError as error:
        click.echo(f"train.captions: error: {error}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
