"""Small changes to a batch of drawings that do not change what they are called."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def jitter(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Shift, scale, turn and recolour (B, 3, H, W) in [-1, 1] a little; white comes in at the edge.

    Scale 0.85 to 1.1, turn up to 8 degrees, shift up to 6%, contrast 0.85 to 1.1 around white, so
    that black may come out as -1.2. No mirroring: a left arrow is not a right arrow.
    """
    count = len(images)
    draw = torch.rand(5, count, generator=generator).to(images.device)
    scale = 0.9 + 0.28 * draw[0]  # of the sampling grid: the inverse of the picture's
    angle = (draw[1] - 0.5) * 0.28
    shift = (draw[2:4] - 0.5) * 0.24
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = [torch.stack([cos, -sin, shift[0]], 1), torch.stack([sin, cos, shift[1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images - 1, grid, align_corners=False) + 1  # padding 0 becomes white
    contrast = (0.85 + 0.25 * draw[4])[:, None, None, None]
    return 1 - (1 - moved) * contrast  # white stays white
