"""Small shards of small pictures, and what a model says of them directly."""

import io

import numpy as np
import pytest
from PIL import Image

from mmfm.data.sample import Sample
from mmfm.data.shards import write_shards

SHARDS, EACH = 4, 6


def picture(number: int) -> bytes:
    """A noisy PNG of 40 x 36, with some transparency."""
    random = np.random.default_rng(number)
    pixels = random.integers(0, 256, (9, 10, 4), dtype=np.uint8)
    pixels[..., 3] |= 128
    image = Image.fromarray(pixels).resize((40, 36), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def sample(number: int) -> Sample:
    captions = (f"picture {number}", "a picture", f"number  {number}\n")[: number % 4]
    return Sample(f"{number:04d}", picture(number), captions)


@pytest.fixture
def make_shards(tmp_path):
    """make_shards(samples, each=6, name="shards") -> folder."""

    def make(samples=None, each=EACH, name="shards"):
        samples = [sample(i) for i in range(SHARDS * EACH)] if samples is None else samples
        write_shards(samples, tmp_path / name, max_count=each)
        return tmp_path / name

    return make


@pytest.fixture
def make_sample():
    return sample


@pytest.fixture
def make_picture():
    return picture
