"""The recipe of the caption head, end to end on a handful of drawings and a tiny model."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import mmfm
from mmfm.data import Sample, write_shards
from mmfm.errors import InputError
from train.captions import (
    Recipe,
    add_copies,
    apply_settings,
    caption_data,
    is_for_validation,
    read_drawings,
    train_head,
)

SHORT = (
    "views=2", "copies=6", "batch_size=8", "loop.num_steps=3", "loop.evaluate_every=3",
    "loop.precision=fp32", "min_count=1",
)  # fmt: skip


def drawing(number):
    """A drawing of 32 px with all that the questions need."""
    colour = ("red", "green", "blue")[number % 3]
    image = Image.new("RGBA", (32, 32))
    ImageDraw.Draw(image).ellipse((4, 4, 18 + number % 10, 28), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    name = f"{colour} circle"
    meta = {"key": f"noto:{number}", "name": name, "set": "noto", "style": "flat emoji",
            "keywords": [colour], "skin_tone": None}  # fmt: skip
    return Sample(f"{number:09d}", buffer.getvalue(), (name,), meta)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawings")
    write_shards((drawing(number) for number in range(60)), folder / "train")
    return folder


def test_it_trains_the_head_alone_and_leaves_a_bundle(shards, tiny_bundle, tmp_path):
    recipe = apply_settings(Recipe(model=str(tiny_bundle)), SHORT)
    train_head(recipe, shards, tmp_path)
    before, after = mmfm.load(tiny_bundle), mmfm.load(tmp_path / "bundle")
    assert len(after.vocabulary) == after.captioner.config.vocab_size
    assert after.vocabulary.guesses.to_list()  # after a colour mostly comes "circle"
    for part in ("backbone", "decoder"):  # as they were, in half precision
        kept = before.parts[part].state_dict()
        for name, weight in after.parts[part].state_dict().items():
            assert torch.equal(weight.half(), kept[name].half())
    changed = after.captioner.blocks[0].mlp.fc1.weight - before.captioner.blocks[0].mlp.fc1.weight
    assert changed.abs().max() > 1e-5
    logged = [json.loads(line) for line in (tmp_path / "head" / "log.jsonl").open()]
    assert any("held_out_token_f1" in json.dumps(line) for line in logged)
    seen = sorted(path.stat().st_mtime_ns for path in (tmp_path / "seen").iterdir())
    train_head(recipe, shards, tmp_path)  # done already: nothing is embedded or trained again
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "seen").iterdir()) == seen


def test_validation_is_never_trained_on(shards, tiny_bundle, tmp_path):
    model = mmfm.load(tiny_bundle)
    drawings, validation = read_drawings(shards, 32)
    keys = [{meta["key"] for meta in part.meta} for part in (drawings, validation)]
    assert keys[0] and keys[1] and not keys[0] & keys[1]
    assert all(is_for_validation(meta) for meta in validation.meta)
    assert all(meta["colours"] for meta in drawings.meta)
    data = caption_data(model, drawings, "train", Recipe(), 2, 6, tmp_path)
    assert data.num_views == 2 and len(data.captions) == len(drawings) + 6
    first = data.seen.take(np.arange(len(drawings)))
    moved = data.seen.take(np.arange(len(drawings)) + len(data.captions))
    plain = torch.from_numpy(model.embed_images(list_of(drawings), precision="fp32"))
    assert torch.allclose(first.pooled, plain, atol=1e-4)
    assert not torch.allclose(moved.pooled, plain, atol=1e-2)


def list_of(pictures):
    return [Image.fromarray(pixels) for pixels in pictures.pixels]


def test_copies_are_as_many_as_their_meta_says(shards):
    drawings, _ = read_drawings(shards, 32)
    every = add_copies(drawings, 12, 0, 0)
    assert [meta["count"] for meta in every.meta[-12:]] == [1, 2, 3, 4, 5, 6] * 2
    assert np.array_equal(every.pixels[: len(drawings)], drawings.pixels)
    again = add_copies(drawings, 12, 0, 0)
    assert np.array_equal(every.pixels, again.pixels)
    other = add_copies(drawings, 12, 0, 1)  # the same drawings, lying otherwise
    assert [meta["key"] for meta in other.meta] == [meta["key"] for meta in every.meta]
    assert other.captions == every.captions
    assert not np.array_equal(every.pixels, other.pixels)


def test_unknown_settings_are_refused():
    with pytest.raises(InputError, match="vieews"):
        apply_settings(Recipe(), ("vieews=2",))
    with pytest.raises(InputError, match="key=value"):
        apply_settings(Recipe(), ("views",))
    assert apply_settings(Recipe(), ("loop.num_steps=7",)).loop.num_steps == 7
    assert replace(Recipe(), views=1).views == 1
