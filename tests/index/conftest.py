"""A small real embedder: a picture is its colours, a text is the colours it names."""

import numpy as np
import pytest
from PIL import Image

from mmfm.preprocess.images import as_image_list, load_image, to_pixels

WORDS = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1), "white": (1, 1, 1)}


class ColourEmbedder:
    """Pictures as 4 x 4 pixels through a fixed random projection to 32 numbers, unit length.

    A text is the flat picture of the mean of the colours it names. `seen` counts pictures.
    """

    def __init__(self, seed: int = 0) -> None:
        self.name = "colours"
        self.backbone_hash = f"{seed:064x}"
        self.seen = 0
        self._project = np.random.default_rng(seed).standard_normal((48, 32)).astype(np.float32)

    def embed_images(self, images, batch_size: int = 64) -> np.ndarray:
        images = [load_image(source) for source in as_image_list(images)]
        self.seen += len(images)
        return np.concatenate([self._unit(to_pixels(image, 4)[None]) for image in images])

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        colours = [np.mean([WORDS[word] for word in text.split()], axis=0) for text in texts]
        flat = np.stack([np.broadcast_to(c[:, None, None], (3, 4, 4)) for c in colours])
        return self._unit(flat.astype(np.float32))

    def _unit(self, pixels: np.ndarray) -> np.ndarray:
        rows = pixels.reshape(len(pixels), -1) @ self._project
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def embedder() -> ColourEmbedder:
    return ColourEmbedder()


@pytest.fixture
def gallery(tmp_path):
    """A folder with red, green, blue and twelve noisy pictures, one of them in a folder below."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for name in ("red", "green", "blue"):
        colour = tuple(max(0, 255 * value) for value in WORDS[name])
        Image.new("RGB", (8, 8), colour).save(folder / f"{name}.png")
    for number in range(12):
        place = folder / ("below" if number == 0 else ".") / f"noise{number:02}.png"
        noise(number).save(place)
    return folder


def noise(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))


@pytest.fixture
def make_noise():
    return noise


@pytest.fixture
def make_embedder():
    return ColourEmbedder
