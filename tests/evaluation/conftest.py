"""A tiny judge of four shapes, trained here for a second, and drawings that it has not seen."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mmfm.data.sample import Sample

SHAPES = ("circle", "square", "cross", "bar")
SIZE = 32


def drawing(shape, number):
    """A picture of a shape, its place, size and colour drawn by `number`."""
    random = np.random.default_rng(number)
    x, y = random.integers(13, 20, 2)
    r = int(random.integers(6, 11))
    colour = tuple(int(v) for v in random.integers(0, 160, 3))
    image = Image.new("RGB", (SIZE, SIZE), "white")
    pen = ImageDraw.Draw(image)
    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    if shape == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), fill=colour)
    if shape in ("cross", "bar"):
        pen.rectangle((x - r, y - 2, x + r, y + 2), fill=colour)
    if shape == "cross":
        pen.rectangle((x - 2, y - r, x + 2, y + r), fill=colour)
    return image


def shape_sample(shape, number, **meta):
    file = io.BytesIO()
    drawing(shape, number).save(file, "PNG")
    known = {"key": f"made:{shape}-{number}", "name": shape, "concept": shape, **meta}
    return Sample(f"{shape}-{number}", file.getvalue(), (known["name"],), known)


@pytest.fixture(scope="session")
def shape_samples():
    """Thirty-two drawings, eight of each shape, that the judge was not trained on."""
    return [shape_sample(shape, 1000 + number) for number in range(8) for shape in SHAPES]


@pytest.fixture(scope="session")
def tiny_judge():
    import torch

    from mmfm.evaluation.judge import Judge, JudgeConfig, JudgeNetwork
    from mmfm.preprocess.images import to_pixels

    config = JudgeConfig(num_classes=4, image_size=SIZE, widths=(16, 32), depths=(1, 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = JudgeNetwork(config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    pairs = [(s, n) for n in range(48) for s in range(4)]
    images = torch.from_numpy(np.stack([to_pixels(drawing(SHAPES[s], n), SIZE) for s, n in pairs]))
    targets = torch.tensor([s for s, _ in pairs])
    for step in range(36):
        rows = torch.arange(step % 3, len(pairs), 3)
        loss = torch.nn.functional.cross_entropy(network(images[rows]), targets[rows])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return Judge(config, network, SHAPES, {"split": "train"})
