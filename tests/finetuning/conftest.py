"""A folder of 24 captioned drawings, and settings that make a run of seconds."""

import pytest
from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "black", "orange", "purple")
SHAPES = ("ellipse", "rectangle")
QUICK = {"steps": 4, "batch_size": 8, "holdout": 0.25, "precision": "fp32", "seed": 0}


def drawing(number):
    """(picture, caption): a shape of one colour; no two are alike."""
    colour, shape = COLOURS[number % 6], SHAPES[number // 6 % 2]
    image = Image.new("RGB", (40, 40), "white")
    low = 3 + 5 * (number // 12 % 4)
    getattr(ImageDraw.Draw(image), shape)((low, 4, 34 - number % 7, 30 + number % 5), fill=colour)
    return image, f"a {colour} {shape}"


def fill(folder, numbers=range(24), captions=True):
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        image, caption = drawing(number)
        image.save(folder / f"{number:02d}.png")
        if captions:
            (folder / f"{number:02d}.txt").write_text(caption)
    return folder


@pytest.fixture
def folder(tmp_path):
    """24 pictures, each with a .txt beside it."""
    return fill(tmp_path / "pictures")


@pytest.fixture
def grid_bundle(tmp_path_factory):
    """A tiny model in grid space with a few-step mode."""
    from dataclasses import replace

    from mmfm.model import MMFM
    from mmfm.presets import preset

    config = preset("tiny", caption_vocab_size=514, space="grid")
    config = replace(config, decoder=replace(config.decoder, few_steps=2, few_steps_rank=2))
    path = tmp_path_factory.mktemp("grid") / "tiny"
    MMFM.from_config(config, seed=0, texts=["a red circle"]).save_pretrained(path)
    return path


@pytest.fixture
def known(tmp_path):
    """24 other pictures, as those that the model knew."""
    return fill(tmp_path / "known", range(24, 48))
