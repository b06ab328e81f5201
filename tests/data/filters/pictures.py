"""Pictures made from a seed: those of different seeds look different, to people and to hashes."""

import io

import numpy as np
from PIL import Image

from mmfm.data import Sample, write_shards


def scene(seed, size=(96, 80)):
    """A soft coloured scene with a few sharp shapes."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (7, 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    for _ in range(5):
        left, top = random.integers(0, size[0] - 12), random.integers(0, size[1] - 12)
        width, height = random.integers(8, 32, 2)
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        image.paste(colour, (int(left), int(top), int(left + width), int(top + height)))
    return image


def encode(image, kind="PNG", **options):
    """The picture as a file's bytes."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def crop(image, share):
    """Without `share` of each side at every edge."""
    x, y = round(image.width * share), round(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


def sample(seed, *captions, image=None, **meta):
    """A sample named by its seed; without captions it gets a good one of its own."""
    data = encode(scene(seed)) if image is None else image
    return Sample(f"{seed:06d}", data, captions or (f"a scene with number {seed} in it",), meta)


def shards(folder, samples, max_count=7):
    """Write samples in several small shards; returns the folder."""
    write_shards(samples, folder, max_count)
    return folder
