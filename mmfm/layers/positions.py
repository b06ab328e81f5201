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


def sincos_2d(rows: int, width: int, columns: int | None = None) -> Tensor:
    """(rows * columns, width) for a grid in row order, square unless columns are given.

    width, of the embedding, is a multiple of 4: the row fills one half, the column the other.
    """
    columns = columns or rows
    down = sincos_1d(torch.arange(rows), width // 2)
    across = sincos_1d(torch.arange(columns), width // 2)
    return torch.cat([down.repeat_interleave(columns, dim=0), across.repeat(rows, 1)], dim=1)


def embed_time(t: Tensor, width: int) -> Tensor:
    """Flow time t in [0, 1], (B,) -> (B, width). Scaled to 0..1000 as in diffusion networks."""
    return sincos_1d(t * 1000.0, width)
