"""Pictures and masks that drawing starts from, at the size that is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mmfm.errors import ImageError, InputError
from mmfm.preprocess.images import load_image
from mmfm.preprocess.transform import Preprocess


def square_or_fitted(image: Image.Image, preprocess: Preprocess, size: tuple[int, int]) -> Tensor:
    """(1, H, W, 3) uint8: as the image tower sees it if it sees that size, else centre-cropped."""
    if size == (preprocess.image_size, preprocess.image_size):
        return torch.from_numpy(preprocess.square(image).copy())[None]
    fitted = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(fitted))[None]


def read_mask(source: Any, image: Image.Image, preprocess: Preprocess,
              size: tuple[int, int]) -> Tensor:  # fmt: skip
    """(1, 1, H, W) float, 1 where light: to be drawn anew; 0 where dark: to be kept.

    Cut and resized as the picture is. Raises ImageError when it has not the picture's size.
    """
    if isinstance(source, np.ndarray) and source.dtype == bool:
        source = source.astype(np.uint8) * 255
    mask = load_image(source)
    if mask.size != image.size:
        raise ImageError(
            f"the mask is {mask.width} x {mask.height}, the picture {image.width} x "
            f"{image.height}; give a mask of the picture's size, white where to draw"
        )
    grey = square_or_fitted(mask, preprocess, size)[..., :1].permute(0, 3, 1, 2)
    return (grey > 127).float()


def with_margin(source: Any, margin: float, size: int) -> tuple[Image.Image, Image.Image]:
    """A picture made smaller on a white square, and the mask of what is around it.

    margin: of the square, on each side: above 0, below 0.5. size: of the square, pixels.
    """
    if not 0 < margin < 0.5:
        raise InputError(f"the margin is {margin}, wanted a share of a side: above 0, below 0.5")
    inside = max(1, round(size * (1 - 2 * margin)))
    small = ImageOps.contain(load_image(source), (inside, inside), Image.Resampling.BICUBIC)
    corner = ((size - small.width) // 2, (size - small.height) // 2)
    canvas, mask = Image.new("RGB", (size, size), "white"), Image.new("L", (size, size), 255)
    canvas.paste(small, corner)
    mask.paste(0, (*corner, corner[0] + small.width, corner[1] + small.height))
    return canvas, mask


def to_unit(pixels: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]; `to_pil` gives the same bytes back."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
