"""ImageDecoder: the flow network in its space; Embeddings in, pictures out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmfm.config import DecoderConfig
from mmfm.decoder import sampler
from mmfm.decoder.flow import flow_loss, interpolate, sample_times
from mmfm.decoder.network import Condition, FlowNetwork
from mmfm.decoder.pixels import PixelDecoder
from mmfm.decoder.spaces import GridSpace, PixelSpace
from mmfm.decoder.vae import VaeSpace
from mmfm.errors import ModelError
from mmfm.shapes import Embeddings


class ImageDecoder(nn.Module):
    """`loss(x_1, condition)` trains it, `sample(embeddings, seeds)` draws with it."""

    def __init__(
        self, config: DecoderConfig, pixel_decoder: PixelDecoder | None = None,
        autoencoder: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config = config
        self.network = FlowNetwork(config)
        if config.space == "pixel":
            self.space: PixelSpace | GridSpace | VaeSpace = PixelSpace(config)
        elif config.space == "vae":
            if autoencoder is None:
                raise ModelError("a decoder in vae space needs a diffusers autoencoder, got none")
            self.space = VaeSpace(config, autoencoder)
        elif pixel_decoder is None:
            raise ModelError("a decoder in grid space needs a pixel decoder; the config has none")
        else:
            self.space = GridSpace(config, pixel_decoder)

    def loss(
        self, x_1: Tensor, embeddings: Embeddings, text_open: Tensor, pooled_open: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Flow-matching loss of clean maps x_1 (B, C, h, w); the ports are (B,) bool."""
        t = sample_times(len(x_1), self.config.shift, generator).to(x_1)
        x_0 = torch.randn(x_1.shape, generator=generator).to(x_1)
        condition = self.network.conditioner(embeddings, text_open, pooled_open)
        return flow_loss(self.network(interpolate(x_0, x_1, t), t, condition), x_0, x_1, t)

    def sample(
        self, embeddings: Embeddings, seeds: list[int], *, num_steps: int, guidance_scale: float,
        negative: Embeddings | None = None, progress: Callable[[int], None] | None = None,
    ) -> Tensor:  # fmt: skip
        """Pictures (B, 3, H, W), about [-1, 1], one for each row of `embeddings` and its seed.

        A text (with tokens) is read through the text port, a bare vector through the pooled one.
        negative: what guidance moves away from; None is the empty condition.
        """
        config = self.config
        shape = (config.channels, config.map_size, config.map_size)
        noise = sampler.noise(seeds, shape).to(embeddings.pooled.device)
        without = self._nothing(embeddings) if negative is None else self._told(negative)
        predict = sampler.guided(self.network, self._told(embeddings), without, guidance_scale)
        x = sampler.sample(predict, noise, num_steps, config.shift, progress)
        return self.space.decode(x)

    def _told(self, embeddings: Embeddings) -> Condition:
        bare = embeddings.tokens is None
        pooled_open = torch.full((len(embeddings),), bare, device=embeddings.pooled.device)
        return self.network.conditioner(embeddings, None, pooled_open)

    def _nothing(self, embeddings: Embeddings) -> Condition:
        closed = torch.zeros(len(embeddings), dtype=torch.bool, device=embeddings.pooled.device)
        return self.network.conditioner(Embeddings(embeddings.pooled), None, closed)
