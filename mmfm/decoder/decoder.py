"""ImageDecoder: the flow network in its space; Embeddings in, pictures out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmfm.config import DecoderConfig
from mmfm.decoder import sampler
from mmfm.decoder.few_steps import few_steps_adapter
from mmfm.decoder.flow import LOGIT_NORMAL, Times, flow_loss, interpolate, sample_times
from mmfm.decoder.network import Condition, FlowNetwork
from mmfm.decoder.pixels import PixelDecoder
from mmfm.decoder.spaces import GridSpace, PixelSpace
from mmfm.errors import ModelError
from mmfm.shapes import Embeddings


class ImageDecoder(nn.Module):
    """`loss(x_1, condition)` trains it, `sample(embeddings, seeds)` draws with it."""

    def __init__(self, config: DecoderConfig, pixel_decoder: PixelDecoder | None = None) -> None:
        super().__init__()
        self.config = config
        self.network = FlowNetwork(config)
        self.few_steps = few_steps_adapter(self.network) if config.few_steps else None
        # why a tuple: the copy of the network is made of the two above, not saved beside them
        self._few: tuple[tuple, FlowNetwork] | None = None
        if config.space == "pixel":
            self.space: PixelSpace | GridSpace = PixelSpace(config)
        elif pixel_decoder is None:
            raise ModelError("a decoder in grid space needs a pixel decoder; the config has none")
        else:
            self.space = GridSpace(config, pixel_decoder)

    def loss(
        self, x_1: Tensor, embeddings: Embeddings, text_open: Tensor, pooled_open: Tensor,
        generator: torch.Generator | None = None, times: Times = LOGIT_NORMAL,
    ) -> Tensor:  # fmt: skip
        """Flow-matching loss of clean maps x_1 (B, C, h, w); the ports are (B,) bool."""
        t = sample_times(len(x_1), self.config.shift, generator, times).to(x_1)
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

    def sample_few(
        self, embeddings: Embeddings, seeds: list[int],
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:  # fmt: skip
        """Like `sample`, by the distilled mode: `config.few_steps` network evaluations a picture.

        Its guidance scale is fixed, `config.few_steps_guidance`, and nothing is negative. Raises
        ModelError when the decoder has no such mode.
        """
        network, config = self.few_network(), self.config
        shape = (config.channels, config.map_size, config.map_size)
        x, condition = sampler.noise(seeds, shape), self._told(embeddings)
        x = sampler.sample(
            lambda x, t: network(x, t, condition), x.to(embeddings.pooled.device),
            config.few_steps, config.shift, progress,
        )  # fmt: skip
        return self.space.decode(x)

    def few_network(self) -> FlowNetwork:
        """The network of the distilled mode, kept until weights change: the clean map towards
        which to go straight to the next of `config.few_steps` Euler steps, guidance included.
        """
        if self.few_steps is None:
            raise ModelError("this decoder has no few-step mode; its config says few_steps=0")
        parts = [*self.network.parameters(), *self.few_steps.parameters()]
        state = tuple((p.data_ptr(), p._version) for p in parts)
        if self._few is None or self._few[0] != state:
            self._few = (state, self.few_steps.merged(self.network))
        return self._few[1]

    def _told(self, embeddings: Embeddings) -> Condition:
        bare = embeddings.tokens is None
        pooled_open = torch.full((len(embeddings),), bare, device=embeddings.pooled.device)
        return self.network.conditioner(embeddings, None, pooled_open)

    def _nothing(self, embeddings: Embeddings) -> Condition:
        closed = torch.zeros(len(embeddings), dtype=torch.bool, device=embeddings.pooled.device)
        return self.network.conditioner(Embeddings(embeddings.pooled), None, closed)
