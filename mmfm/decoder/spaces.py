"""The spaces a flow can work in: how a picture becomes a normalised map, and comes back.

Statistics are buffers, saved with the weights, so that no constant lives in a loop.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfm.config import DecoderConfig
from mmfm.decoder.pixels import PixelDecoder
from mmfm.layers.patches import map_to_tokens, patchify, tokens_to_map, unpatchify


class PixelSpace(nn.Module):
    """images (B, 3, H, W) in [-1, 1] <-> folded patches (B, 3 P^2, h, w), divided by `scale`."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("scale", torch.ones(1))

    def fit(self, images: Tensor) -> None:
        """Set mean and scale so that encoded pictures have mean 0 and variance 1."""
        self.mean.copy_(images.mean())
        self.scale.copy_(images.std())

    def encode(self, images: Tensor) -> Tensor:
        return patchify((images - self.mean) / self.scale, self.patch_size)

    def decode(self, x: Tensor) -> Tensor:
        return unpatchify(x, self.patch_size) * self.scale + self.mean

    def mask(self, pixels: Tensor, cell: int) -> Tensor:
        """(1, 1, H, W), 1 = draw, 0 = keep -> of the map (1, C, h, w): pixel by pixel."""
        return patchify(pixels.expand(-1, 3, -1, -1), self.patch_size)


class GridSpace(nn.Module):
    """The backbone's tokens (B, N, E) <-> a map (B, E, h, w), each channel normalised.

    Decoding to pixels takes the pixel decoder; a decoded grid can also be pooled and captioned
    before a single pixel exists.
    """

    def __init__(self, config: DecoderConfig, pixel_decoder: PixelDecoder) -> None:
        super().__init__()
        # why a tuple: the pixel decoder is the model's, not a sub-module to be saved twice
        self._pixel_decoder = (pixel_decoder,)
        self.register_buffer("mean", torch.zeros(config.channels))
        self.register_buffer("scale", torch.ones(config.channels))

    @property
    def pixel_decoder(self) -> PixelDecoder:
        """The model's pixel decoder, which draws what this space decodes."""
        return self._pixel_decoder[0]

    def fit(self, tokens: Tensor) -> None:
        """Set per-channel mean and scale from tokens (B, N, E)."""
        self.mean.copy_(tokens.mean(dim=(0, 1)))
        self.scale.copy_(tokens.std(dim=(0, 1)))

    def encode(self, tokens: Tensor) -> Tensor:
        return tokens_to_map((tokens - self.mean) / self.scale)

    def decode_tokens(self, x: Tensor) -> Tensor:
        return map_to_tokens(x) * self.scale + self.mean

    def decode(self, x: Tensor) -> Tensor:
        return self.pixel_decoder(self.decode_tokens(x), tuple(x.shape[2:]))

    def mask(self, pixels: Tensor, cell: int) -> Tensor:
        """As in PixelSpace; a token of `cell` x `cell` pixels is drawn if any pixel of it is."""
        return F.max_pool2d(pixels, cell)
