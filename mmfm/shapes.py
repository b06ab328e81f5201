"""The legend of axis names, and the one value that crosses between backbone and heads.

B batch, H W pixels, P patch, N image tokens, T text tokens, L any sequence, D shared embedding
width, E a module's own width, A heads, K head width, V vocabulary, C channels (h w small grid).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Embeddings:
    """What a tower says of a batch of pictures or texts.

    pooled: (B, D), unit length; what retrieval compares.
    tokens: (B, N, E), the tower's own width, or None when only the pooled vector is known.
    mask: (B, N), True = real token, or None when every token is real.
    """

    pooled: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        expect_shape(self.pooled, "B D", "pooled")
        if self.tokens is not None:
            expect_shape(self.tokens, "B N E", "tokens")
        if self.mask is not None:
            expect_shape(self.mask, "B N", "mask")

    def __len__(self) -> int:
        return self.pooled.shape[0]

    def to(self, device: torch.device | str) -> Embeddings:
        """The same value on another device."""
        move = [None if x is None else x.to(device) for x in (self.pooled, self.tokens, self.mask)]
        return Embeddings(*move)

    def take(self, rows: list[int]) -> Embeddings:
        """The given rows, in that order; a row may come more than once."""
        places = torch.tensor(rows, dtype=torch.int64)
        took = [None if x is None else x[places] for x in (self.pooled, self.tokens, self.mask)]
        return Embeddings(*took)


def expect_shape(x: Tensor, axes: str, name: str) -> None:
    """Check that `x` has as many axes as `axes` names ("B N D"); digits must match exactly.

    Raises ValueError that names the tensor, the shape got and the shape wanted.
    """
    wanted = axes.split()
    fixed = [(i, int(a)) for i, a in enumerate(wanted) if a.isdigit()]
    if x.dim() != len(wanted) or any(x.shape[i] != size for i, size in fixed):
        raise ValueError(f"{name} has shape {tuple(x.shape)}, wanted ({', '.join(wanted)})")
