"""Pictures to patch maps and back: exact inverses of each other."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) -> (B, C * P^2, H / P, W / P); H and W must be multiples of P."""
    return F.pixel_unshuffle(images, patch_size)


def unpatchify(patches: Tensor, patch_size: int) -> Tensor:
    """(B, C * P^2, h, w) -> (B, C, h * P, w * P), the inverse of `patchify`."""
    return F.pixel_shuffle(patches, patch_size)


def tokens_to_map(tokens: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """(B, N, E) in row order -> (B, E, h, w); size: (h, w), None = N is a square."""
    side = round(tokens.shape[1] ** 0.5)
    height, width = size or (side, side)
    if height * width != tokens.shape[1]:
        wanted = "a square grid" if size is None else f"a grid of {height} x {width}"
        raise ValueError(f"{tokens.shape[1]} tokens are not {wanted}")
    return tokens.transpose(1, 2).unflatten(2, (height, width))


def map_to_tokens(x: Tensor) -> Tensor:
    """(B, E, h, w) -> (B, h * w, E), the inverse of `tokens_to_map`."""
    return x.flatten(2).transpose(1, 2)
