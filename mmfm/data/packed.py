"""A split of drawings held in memory as one uint8 array: what a small training reads from.

A 64 px drawing takes 16 KB, so 30,000 of them fit in 0.5 GB; no decoding happens per step.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from mmfm.data.keyed import content_key
from mmfm.data.sample import Sample
from mmfm.errors import DataError


@dataclass(frozen=True)
class PackedPictures:
    """pixels (N, H, W, 4) uint8 with alpha; captions and meta, one entry per picture.

    keys: sha256 of each encoded picture, by which an `EmbeddingStore` knows it; may be empty.
    """

    pixels: np.ndarray
    captions: list[tuple[str, ...]]
    meta: list[dict]
    keys: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.captions)

    @classmethod
    def read(cls, samples: Iterable[Sample], size: int) -> PackedPictures:
        """Decode samples of exactly `size` x `size` pixels. Raises DataError on any other."""
        pixels, captions, meta, keys = [], [], [], []
        for sample in samples:
            image = Image.open(io.BytesIO(sample.image)).convert("RGBA")
            if image.size != (size, size):
                raise DataError(
                    f"sample {sample.key} is {image.width}x{image.height} px, wanted {size}x{size}:"
                    f" build the shards with --size {size}"
                )
            pixels.append(np.asarray(image))
            captions.append(tuple(sample.captions))
            meta.append(sample.meta)
            keys.append(content_key(sample.image))
        if not pixels:
            raise DataError("the shards hold no samples: build them again")
        return cls(np.stack(pixels), captions, meta, keys)

    def select(self, rows: np.ndarray) -> PackedPictures:
        """Only these pictures, in this order."""
        lists = (self.captions, self.meta, self.keys)
        return PackedPictures(
            self.pixels[rows], *([one[i] for i in rows] if one else [] for one in lists)
        )

    def joined(self, other: PackedPictures) -> PackedPictures:
        """These pictures and then the others, which have the same size."""
        return PackedPictures(
            np.concatenate([self.pixels, other.pixels]), self.captions + other.captions,
            self.meta + other.meta, self.keys + other.keys,
        )  # fmt: skip

    def on_ground(self, rows: np.ndarray, ground: float | np.ndarray = 1.0) -> np.ndarray:
        """Rows as (B, 3, H, W) float32 in [-1, 1], composited on `ground` in [-1, 1].

        ground: one number, or (B, 3) a colour for each picture.
        """
        rgba = self.pixels[rows].astype(np.float32)
        alpha = rgba[..., 3:] / 255.0
        colour = np.broadcast_to(np.asarray(ground, np.float32), (len(rows), 3))
        flat = (rgba[..., :3] / 127.5 - 1) * alpha + colour[:, None, None] * (1 - alpha)
        return np.ascontiguousarray(flat.transpose(0, 3, 1, 2))
