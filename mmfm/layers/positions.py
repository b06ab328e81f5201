"""Where and when: fixed sine-cosine embeddings of grid positions and of flow time.

Fixed rather than learned: in short trainings learned positions that start near zero left the
flow with the right colours in no particular place (docs/experiments.md).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sincos_1d(positions: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """(L,) -> (L, width): cosines then sines of geometrically spaced frequencies; width even."""
    half = width // 2
    index = torch.arange(half, dtype=torch.float32, device=positions.device)
    frequencies = torch.exp(-math.log(max_period) * index / half)
    angles = positions.float()[:, None] * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def sincos_2d(grid_size: int, width: int) -> Tensor:
    """(grid_size^2, width) for a square grid in row order; width a multiple of 4."""
    axis = torch.arange(grid_size)
    rows = sincos_1d(axis, width // 2)  # (g, width / 2)
    return torch.cat([rows.repeat_interleave(grid_size, dim=0), rows.repeat(grid_size, 1)], dim=1)


def embed_time(t: Tensor, width: int) -> Tensor:
    """Flow time t in [0, 1], (B,) -> (B, width). Scaled to 0..1000 as in diffusion networks."""
    return sincos_1d(t * 1000.0, width)
