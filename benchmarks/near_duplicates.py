"""What `mmfm data filter --near-duplicates` finds: changed copies of a picture, and other pictures.

Every picture is changed in one way; `ours` is the share of copies that the defaults find, `peer`
the share that the 64-bit hash alone finds at the same distance. The gate counts pairs of different
pictures that would be taken for copies, by ours and by the hash alone. The drawings are those of
the gallery; --photographs adds those of a folder, and twelve parts of each.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import versions

PARTS = 12  # of a photograph, each a third of its shorter side
SIDE = 256  # pixels of a whole photograph, and 200 of a part
Change = Callable[[Image.Image], Image.Image]


def encoded(image: Image.Image, kind: str, **settings: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return Image.open(stream).convert("RGB")


def cropped(image: Image.Image, share: float) -> Image.Image:
    x, y = round(image.width * share), round(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


CHANGES: dict[str, Change] = {
    "JPEG quality 75": lambda image: encoded(image, "JPEG", quality=75),
    "JPEG quality 30": lambda image: encoded(image, "JPEG", quality=30),
    "WebP quality 50": lambda image: encoded(image, "WEBP", quality=50),
    "half size": lambda image: image.resize((image.width // 2, image.height // 2), 1),
    "twice the size": lambda image: image.resize((image.width * 2, image.height * 2), 3),
    "1.6% cropped": lambda image: cropped(image, 1 / 64),
    "3% cropped": lambda image: cropped(image, 2 / 64),
}


def drawings() -> list[Image.Image]:
    from mmfm.cli import gallery
    from mmfm.preprocess.images import load_image

    return [load_image(drawing.path) for drawing in gallery.read()]


def photographs(folder: Path) -> list[Image.Image]:
    """Each of the folder, and after it its parts."""
    from mmfm.preprocess.folder import list_images
    from mmfm.preprocess.images import load_image

    random, found = np.random.default_rng(0), []
    for path in list_images(folder):
        image = load_image(path)
        found.append(image.resize((SIDE, SIDE)))
        side = min(image.size) // 3
        for _ in range(PARTS):
            x = int(random.integers(0, image.width - side + 1))
            y = int(random.integers(0, image.height - side + 1))
            found.append(image.crop((x, y, x + side, y + side)).resize((200, 200), 3))
    return found


class Described:
    """Hashes (N,) and small colour copies (N, cells) of pictures, as the filter sees them."""

    def __init__(self, images: list[Image.Image]) -> None:
        from mmfm.data.filters.phash import describe

        told = []
        for image in images:
            stream = io.BytesIO()
            image.save(stream, "PNG")
            told.append(describe(stream.getvalue()))
        self.hashes = np.array([value for value, _ in told], np.uint64)
        self.sketches = np.stack([np.frombuffer(sketch, np.uint8) for _, sketch in told])

    def near(self, other: Described, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether each pair is near by the defaults, and by the hash alone."""
        from mmfm.data.filters.duplicates import DIFFERENCE, DISTANCE
        from mmfm.data.filters.phash import sketch_difference

        alone = np.bitwise_count(self.hashes[a] ^ other.hashes[b]) <= DISTANCE
        worst = sketch_difference(self.sketches[a], other.sketches[b])
        return alone & (worst <= DIFFERENCE), alone


def measure(kind: str, images: list[Image.Image], source: np.ndarray, rounds: int) -> None:
    """source: of which whole picture each is, since parts of one may well be near."""
    base, rows = Described(images), np.arange(len(images))
    first, second = np.triu_indices(len(images), 1)
    other = source[first] != source[second]
    ours, alone = (int((near & other).sum()) for near in base.near(base, first, second))
    for name, change in CHANGES.items():
        near, by_hash = base.near(Described([change(image) for image in images]), rows, rows)
        ratio = round(near.mean() / by_hash.mean(), 3) if by_hash.any() else 1.0
        line = {
            "benchmark": "near_duplicates",
            "case": f"{len(images)} {kind}, {name}",
            "ratio": ratio,
            "ours": round(near.mean(), 4),
            "peer": round(by_hash.mean(), 4),
            "unit": "share of the copies found",
            "peer_version": f"the hash alone, {versions('pillow')}",
            "gate": {
                "others_taken": ours,
                "by_the_hash_alone": alone,
                "of_pairs": int(other.sum()),
            },
            "equal": ours <= alone,
            "rounds": rounds,
            "spread": [ratio, ratio],
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=Path, help="a folder of photographs")
    parser.add_argument("--rounds", type=int, default=1, help="not used: nothing here is random")
    parser.add_argument("--model", help="not used: a hash has no model")
    given = parser.parse_args()
    pictures = drawings()
    measure("drawings", pictures, np.arange(len(pictures)), given.rounds)
    if given.photographs:
        parts = photographs(given.photographs)
        measure("photographs and parts", parts, np.arange(len(parts)) // (PARTS + 1), given.rounds)
