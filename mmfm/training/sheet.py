"""Sample sheets while training: plain grids of pictures, no labels."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def grid_sheet(images: Tensor, columns: int = 8) -> Image.Image:
    """(N, 3, H, W) in [-1, 1] -> one picture, row by row, white where N does not fill a row."""
    missing = -len(images) % columns
    white = torch.ones(missing, *images.shape[1:])
    rows = torch.cat([images.cpu().clamp(-1, 1), white]).unflatten(0, (-1, columns))
    joined = rows.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)  # (R * H, columns * W, 3)
    return Image.fromarray(((joined + 1) * 127.5).round().numpy().astype(np.uint8))


def pairs_sheet(first: Tensor, second: Tensor, columns: int = 12) -> Image.Image:
    """Rows of `first` with the same rows of `second` right below them."""
    sheets = []
    for start in range(0, len(first), columns):
        sheets += [
            np.asarray(grid_sheet(x[start : start + columns], columns)) for x in (first, second)
        ]
    return Image.fromarray(np.concatenate(sheets))
