"""A small real task for the loop, and eight drawings."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from mmfm.data.packed import PackedPictures


class LineTask:
    """Fit y = w x on 32 points, with noise from the step's generator.

    broken: steps (as counted by this task) whose loss is not a number.
    """

    def __init__(self, broken=()):
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(32, 4, generator=generator)
        self.y = self.x @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])
        self.broken = set(broken)
        self.calls = 0
        self.evaluations = 0

    def loss(self, rows, generator):
        x = self.x[rows] + 0.01 * torch.randn(len(rows), 4, generator=generator)
        loss = (self.module(x) - self.y[rows]).square().mean()
        self.calls += 1
        return loss * (float("nan") if self.calls - 1 in self.broken else 1.0), {"twice": 2.0}

    def evaluate(self, module):
        self.evaluations += 1
        assert not module.training
        error = (module(self.x) - self.y).square().mean().item()
        return {"held_out_error": error}, {"sheet": Image.new("RGB", (4, 4))}


@pytest.fixture
def make_task():
    return LineTask


@pytest.fixture(scope="session")
def drawings():
    """Twelve drawings of 32 px with alpha: four shapes in three colours."""
    pixels, captions, meta = [], [], []
    for colour in ("red", "green", "blue"):
        for shape in ("circle", "square", "bar", "line"):
            image = Image.new("RGBA", (32, 32))
            draw = ImageDraw.Draw(image)
            if shape == "circle":
                draw.ellipse((6, 6, 26, 26), fill=colour)
            elif shape == "square":
                draw.rectangle((8, 8, 24, 24), fill=colour)
            elif shape == "bar":
                draw.rectangle((2, 13, 30, 19), fill=colour)
            else:
                draw.line((4, 4, 28, 28), fill=colour, width=5)
            pixels.append(np.asarray(image))
            captions.append((f"{colour} {shape}", f"a flat drawing of {colour} {shape}"))
            meta.append({"style": "flat", "keywords": [colour, shape]})
    return PackedPictures(np.stack(pixels), captions, meta)
