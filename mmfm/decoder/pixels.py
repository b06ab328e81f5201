"""From a grid of image tokens to RGB: the pixel decoder of a representation autoencoder.

A small ViT over the tokens predicts one patch each (RAE, 2510.11690); two convolutions over the
finished picture, folded by 4, take away the seams between patches.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from mmfm.config import PixelDecoderConfig
from mmfm.layers.blocks import TransformerBlock
from mmfm.layers.patches import patchify, tokens_to_map, unpatchify
from mmfm.layers.positions import sincos_2d

_FOLD = 4  # pixels folded into channels for the seam convolutions


class PixelDecoder(nn.Module):
    """tokens (B, N, E) in row order -> images (B, 3, H, W), about [-1, 1], not clamped.

    N is grid_size^2, or h * w of the `size` (h, w) that is given with the tokens.
    """

    def __init__(self, config: PixelDecoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.stem = nn.Linear(config.token_width, width)
        self.register_buffer("positions", sincos_2d(config.grid_size, width), persistent=False)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, config.num_heads) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, 3 * config.patch_size**2)
        channels = 3 * _FOLD**2
        self.seam1 = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.seam2 = nn.Conv2d(2 * channels, channels, 3, padding=1)
        nn.init.zeros_(self.seam2.weight)
        nn.init.zeros_(self.seam2.bias)

    def forward(self, tokens: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        x = self.stem(tokens) + self._positions_of(size)
        for block in self.blocks:
            x = block(x)
        patches = tokens_to_map(self.out(self.norm(x)), size)
        images = unpatchify(patches, self.config.patch_size)
        folded = patchify(images, _FOLD)
        folded = folded + self.seam2(F.silu(self.seam1(folded)))
        return unpatchify(folded, _FOLD)

    def _positions_of(self, size: tuple[int, int] | None) -> Tensor:
        side = self.config.grid_size
        if size is None or size == (side, side):
            return self.positions
        return sincos_2d(size[0], self.config.width, size[1]).to(self.positions)
