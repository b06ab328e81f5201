"""Every port of the decoder on one sheet, docs/ports.png: `python docs/ports.py [MODEL]`.

Drawn from the shipped weights, one row a port, all from seed 0, nothing left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

import mmfm
from mmfm.cli import gallery
from mmfm.cli.pictures import save_generated
from mmfm.cli.sheet import contact_sheet

COUNT = 6  # pictures a row, what was given included
TARGET = Path(__file__).with_name("ports.png")


def rows(model: Any) -> list[tuple[str, list[Image.Image], Callable[[int], list]]]:
    """Name of the port, pictures that are given to it, and what draws so many with it."""
    apple, frog = (gallery.FOLDER / f"emojione-{name}.png" for name in ("red-apple", "frog"))
    given = {path: Image.open(path).convert("RGBA") for path in (apple, frog)}
    mask = upper_half(given[frog])
    vector = model.embed_images([apple]) + model.embed_texts(["a green apple"])
    same: dict[str, Any] = {"seed": 0}
    return [
        ("text: a red apple", [],
         lambda n: model.generate("a red apple", num_images=n, **same)),
        ("text: blue heart, not: red", [],
         lambda n: model.generate("blue heart", negative_prompt="red", num_images=n, **same)),
        ("best of 8 by the backbone: yellow smiling face", [],
         lambda n: model.generate("yellow smiling face", num_images=n, rerank=8, **same)),
        ("variations of a picture", [given[apple]],
         lambda n: model.vary(apple, num_images=n, **same)),
        ("text and picture: green", [given[apple]],
         lambda n: model.generate("green", image=apple, num_images=n, **same)),
        ("a stored vector: the apple's + “a green apple”", [],
         lambda n: model.decode_embeddings(vector, num_images=n, **same)),
        ("image to image, strength 0.7: a green frog", [given[apple]],
         lambda n: model.generate("a green frog", image=apple, strength=0.7, num_images=n, **same)),
        ("text-difference edit: a red apple to a green apple", [given[apple]],
         lambda n: model.edit(apple, "a red apple", "a green apple", num_images=n, **same)),
        ("inpainting: a red apple", [given[frog], mask],
         lambda n: model.generate("a red apple", image=frog, mask=mask, num_images=n, **same)),
        ("outpainting: a green frog", [given[frog]],
         lambda n: model.outpaint(frog, "a green frog", num_images=n, **same)),
        ("from a text to a text: a red apple to a green frog", [],
         lambda n: model.interpolate("a red apple", "a green frog", n, **same)),
        ("from a picture to a picture", [given[apple], given[frog]],
         lambda n: model.interpolate(apple, frog, n, **same)),
        ("from a text to a picture: a red apple to the frog", [given[frog]],
         lambda n: model.interpolate("a red apple", frog, n, **same)),
        ("reconstruction of the grid", [given[apple], given[frog]],
         lambda n: model.reconstruct([apple, frog])),
        ("unconditional", [], lambda n: model.generate(num_images=n, **same)),
    ]  # fmt: skip


def upper_half(image: Image.Image) -> Image.Image:
    """A mask: light where to draw."""
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).rectangle((0, 0, image.width, image.height // 2 - 1), fill=255)
    return mask


def main(name: str = "mini") -> None:
    model = mmfm.load(name, device="cpu")
    pictures, labels = [], []
    blank = Image.fromarray(np.full((64, 64, 3), 255, np.uint8))
    for port, given, draw in rows(model):
        row = [*given, *draw(COUNT - len(given))]
        words = [port, *[""] * (COUNT - 1)]
        for i in range(len(given)):
            words[i] = f"{words[i]} (given)".strip()
        pictures += [*row, *[blank] * (COUNT - len(row))]
        labels += words
    facts = {"model": name, "backbone": model.backbone_hash, "seed": 0, **model.config.generation,
             "software": f"mmfm {mmfm.__version__}"}  # fmt: skip
    sheet = contact_sheet(pictures, labels, columns=COUNT, cell=96)
    save_generated(sheet, TARGET, facts)
    print(TARGET)


if __name__ == "__main__":
    main(*sys.argv[1:2])
