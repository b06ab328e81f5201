"""Every Pillow colour mode to RGB, by rule rather than by `convert("RGB")`.

why: `convert("RGB")` clips 16-bit grey to white, float to black, and shows the colour hidden under
transparent pixels. The rules here:

- alpha, in any form (RGBA, LA, PA, palette or colour-key transparency): composited on white;
- 16-bit grey: by its declared range, 65535 -> 255;
- 32-bit integer and float, which declare no range: the smallest of the usual full ranges
  (1 for float only, 255, 65535) that holds every value, when none is negative; otherwise the
  picture's own minimum -> 0 and maximum -> 255;
- NaN and infinity: refused;
- CMYK, YCbCr, HSV, LAB, palette, 1-bit: Pillow's conversion (it un-inverts Adobe CMYK JPEGs).
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from mmfm.errors import ImageError

WHITE = (255, 255, 255)
_GREY_WITHOUT_8_BIT = ("I", "F")  # and every "I;16" variant
_AT_ONCE = 2**20  # pixels
_INTEGER_RANGES = (255.0, 65535.0)
_FLOAT_RANGES = (1.0, *_INTEGER_RANGES)


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """The picture as mode RGB, 8 bit; the same one when it is that; `name` is for errors.

    Raises ImageError for NaN or infinite pixels.
    """
    if image.mode in _GREY_WITHOUT_8_BIT or image.mode.startswith("I;"):
        return _deep_grey_to_rgb(image, name)
    if image.mode == "La":  # Pillow knows no direct way from it to RGBA
        image = image.convert("LA")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (*WHITE, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep_grey_to_rgb(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image)  # (H, W), uint16, int32 or float32
    scaled = _scale_to_8_bit(values, name, declared=image.mode.startswith("I;16"))
    key = image.info.get("transparency")
    if isinstance(key, int):
        scaled[values == key] = 255
    return Image.fromarray(scaled).convert("RGB")


def _scale_to_8_bit(values: np.ndarray, name: str, declared: bool) -> np.ndarray:
    """(H, W) of any number -> (H, W) uint8; `declared` = 0..65535 is the file's own range."""
    is_float = np.issubdtype(values.dtype, np.floating)
    if is_float and not np.isfinite(values).all():
        raise ImageError(f"{name} holds NaN or infinite pixels; replace them by numbers first.")
    low, high = 0.0, 65535.0
    if not declared:
        low, high = _guess_range(values, _FLOAT_RANGES if is_float else _INTEGER_RANGES)
    scaled = np.zeros(values.shape, np.uint8)
    if high == low:
        return scaled
    flat, levels = values.reshape(-1), scaled.reshape(-1)
    for start in range(0, len(flat), _AT_ONCE):  # why in parts: float64 takes eight times the space
        part = flat[start : start + _AT_ONCE].astype(np.float64)
        levels[start : start + _AT_ONCE] = np.rint((part - low) * (255.0 / (high - low)))
    return scaled


def _guess_range(values: np.ndarray, usual: tuple[float, ...]) -> tuple[float, float]:
    smallest, largest = float(values.min()), float(values.max())
    if smallest >= 0:
        for full in usual:
            if largest <= full:
                return 0.0, full
    return smallest, largest
