"""The picture transform that belongs to a backbone: resize, crop or pad, normalise.

It is part of a checkpoint (its hash is part of the backbone's) and speaks open_clip's
`preprocess_cfg`, whose evaluation transform it reproduces with Pillow and numpy alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from PIL import Image

from mmfm.errors import ModelError

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)  # open_clip.constants, RGB in [0, 1]
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_RESIZE_MODES = ("shortest", "squash", "longest")
_MAX_RESIZED = 16_000_000  # pixels before the centre crop; from there on only the centre is made
MAX_SHRINK = 1024  # of a side, in one resize
_KEYS = {  # open_clip's key -> ours
    "size": "image_size",
    "mean": "mean",
    "std": "std",
    "interpolation": "interpolation",
    "resize_mode": "resize_mode",
    "fill_color": "fill",
}


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """What turns an RGB picture into the array a tower reads.

    Raises ModelError when a field is not one of the values below.
    """

    image_size: int = 224  # side of the square output, pixels
    mean: tuple[float, float, float] = OPENAI_MEAN  # RGB, of pixels in [0, 1]
    std: tuple[float, float, float] = OPENAI_STD
    interpolation: str = "bicubic"  # or "bilinear"
    resize_mode: str = "shortest"  # + centre crop; "squash"; "longest" + padding with `fill`
    fill: int = 0  # grey level of the padding, 0..255

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(x) for x in getattr(self, name)))
        checks = {
            "image_size": isinstance(self.image_size, int) and self.image_size >= 1,
            "mean": len(self.mean) == 3,
            "std": len(self.std) == 3 and all(x > 0 for x in self.std),
            "interpolation": self.interpolation in _FILTERS,
            "resize_mode": self.resize_mode in _RESIZE_MODES,
            "fill": isinstance(self.fill, int) and 0 <= self.fill <= 255,
        }
        for field in fields(self):
            if not checks[field.name]:
                raise ModelError(
                    f"Preprocess got {field.name}={getattr(self, field.name)!r}; wanted a positive "
                    f"image_size, 3 means, 3 positive stds, interpolation in {tuple(_FILTERS)}, "
                    f"resize_mode in {_RESIZE_MODES}, fill in 0..255."
                )

    @classmethod
    def from_open_clip(cls, config: Mapping[str, Any]) -> Preprocess:
        """From open_clip's `preprocess_cfg`; keys left out take open_clip's own defaults.

        Raises ModelError for unknown keys, a mode other than RGB, or a picture that is not square.
        """
        values = {key: value for key, value in config.items() if value is not None}
        if values.pop("mode", "RGB") != "RGB":
            raise ModelError(f"Got preprocess mode {config['mode']!r}; only RGB is supported.")
        unknown = sorted(set(values) - set(_KEYS))
        if unknown:
            raise ModelError(
                f"Unknown preprocess keys {', '.join(unknown)}; known are {', '.join(_KEYS)}."
            )
        size = values.get("size")
        if isinstance(size, (list, tuple)):
            if len(set(size)) != 1:
                raise ModelError(f"Got preprocess size {size}; only square pictures are supported.")
            values["size"] = int(size[0])
        for key in ("mean", "std"):
            if isinstance(values.get(key), (int, float)):
                values[key] = (values[key],) * 3
        if values.get("interpolation") == "random":  # open_clip: random in training, else bicubic
            values["interpolation"] = "bicubic"
        return cls(**{_KEYS[key]: value for key, value in values.items()})

    def to_open_clip(self) -> dict[str, Any]:
        """The dict that open_clip calls `preprocess_cfg`; ready for JSON."""
        ours: dict[str, Any] = {"mode": "RGB"}
        for key, name in _KEYS.items():
            value = getattr(self, name)
            ours[key] = list(value) if isinstance(value, tuple) else value
        return ours

    @property
    def hash(self) -> str:
        """sha256, hex, of the canonical JSON of `to_open_clip()`."""
        text = json.dumps(self.to_open_clip(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def __call__(self, image: Image.Image) -> np.ndarray:
        """RGB picture of any size -> (3, image_size, image_size) float32, normalised."""
        return self.normalise(self.square(image)[None])[0]

    def square(self, image: Image.Image) -> np.ndarray:
        """RGB picture of any size -> (image_size, image_size, 3) uint8, resized and cropped."""
        make = {
            "shortest": self._shortest,
            "squash": lambda one: self._resize(one, self.image_size, self.image_size),
            "longest": self._longest,
        }[self.resize_mode]
        return np.asarray(make(image))

    def normalise(self, squares: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """B of (H, W, 3) uint8 -> (B, 3, H, W) float32; the same bits as torchvision's steps."""
        mean, std = (np.array(values, np.float32)[:, None] for values in (self.mean, self.std))
        # why a table: 256 divisions instead of one a pixel, and no two roundings differ
        table = (np.arange(256, dtype=np.float32) / np.float32(255) - mean) / std
        out = np.empty((len(squares), 3, *squares[0].shape[:2]), np.float32)
        for planes, square in zip(out, squares):
            for channel in range(3):
                np.take(table[channel], square[..., channel], out=planes[channel], mode="clip")
        return out

    def _resize(self, image: Image.Image, width: int, height: int, box=None) -> Image.Image:
        if box is None:
            image = without_extremes(image, width, height)
        return image.resize((width, height), _FILTERS[self.interpolation], box=box)

    def _shortest(self, image: Image.Image) -> Image.Image:
        side = self.image_size
        short, long = min(image.size), max(image.size)
        new_long = int(side * long / short)  # torchvision's Resize rounds down
        width, height = (side, new_long) if image.width <= image.height else (new_long, side)
        left, top = _centre(width, side), _centre(height, side)
        if width * height <= _MAX_RESIZED:
            return self._resize(image, width, height).crop((left, top, left + side, top + side))
        # why: a 1 x 3000 line would grow to 224 x 672000 pixels before the crop; Pillow can resize
        # only the part that is kept, with the filter still seeing the pixels beside it. Its two
        # passes may then run in the other order and round differently, hence not always.
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + side) * across, (top + side) * down)
        box = (box[0], box[1], min(box[2], image.width), min(box[3], image.height))
        return self._resize(image, side, side, box)

    def _longest(self, image: Image.Image) -> Image.Image:
        side = self.image_size
        ratio = max(image.size) / side
        # why max(1, ...): open_clip fails on a line so thin that it rounds to no pixels
        width, height = (max(1, round(length / ratio)) for length in image.size)
        canvas = Image.new("RGB", (side, side), (self.fill,) * 3)
        corner = ((side - width) // 2, (side - height) // 2)
        canvas.paste(self._resize(image, width, height), corner)
        return canvas


def without_extremes(image: Image.Image, width: int, height: int) -> Image.Image:
    """The picture, averaged along a side that is over 1024 times longer than wanted.

    Why: for a line of 64 million pixels a resize takes gigabytes, of weights or between its passes.
    """
    wanted = (width, height)
    factors = [
        have // (64 * want) if have > MAX_SHRINK * want else 1
        for have, want in zip(image.size, wanted)
    ]
    return image if max(factors) == 1 else image.reduce((factors[0], factors[1]))


def _centre(length: int, side: int) -> int:
    return round((length - side) / 2.0)
