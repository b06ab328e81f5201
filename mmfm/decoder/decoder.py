"""ImageDecoder: the flow network in its space; Embeddings in, pictures out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmfm.config import DecoderConfig
from mmfm.decoder.few_steps import few_steps_adapter
from mmfm.decoder.flow import LOGIT_NORMAL, Times, flow_loss, interpolate, sample_times
from mmfm.decoder.guidance import ALWAYS, Part, guided, kept
from mmfm.decoder.network import Condition, FlowNetwork
from mmfm.decoder.pixels import PixelDecoder
from mmfm.decoder.sampler import SAMPLERS, noise, noise_levels, sample
from mmfm.decoder.spaces import GridSpace, PixelSpace
from mmfm.decoder.vae import VaeSpace
from mmfm.errors import ModelError
from mmfm.layers.plain import plain
from mmfm.shapes import Embeddings


@dataclass(frozen=True)
class Start:
    """What drawing begins from; by default noise alone.

    known (1 or B, C, h, w): a clean map, mixed with noise. strength: the share of the noise levels
    that are then walked: 1 begins with pure noise, 0 leaves the map. mask: broadcasts to it, 1
    where it is drawn anew, 0 where it is kept; None = everywhere anew.
    """

    known: Tensor | None = None
    mask: Tensor | None = None
    strength: float = 1.0


class ImageDecoder(nn.Module):
    """`loss(x_1, condition)` trains it, `sample(embeddings, seeds)` draws with it."""

    def __init__(
        self, config: DecoderConfig, pixel_decoder: PixelDecoder | None = None,
        autoencoder: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config = config
        self.network = FlowNetwork(config)
        self.few_steps = few_steps_adapter(self.network) if config.few_steps else None
        # why a tuple: the copy of the network is made of the two above, not saved beside them
        self._few: tuple[tuple, FlowNetwork] | None = None
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
        without = self._nothing(embeddings) if negative is None else self._told(negative)
        parts = [Part(self._told(embeddings), float(guidance_scale), 1.0),
                 Part(without, 1.0 - guidance_scale, 0.0)]  # fmt: skip
        tell = None if progress is None else lambda done, total, clean: progress(done)
        return self.space.decode(self.draw(parts, seeds, num_steps=num_steps, progress=tell))

    def draw(
        self, parts: list[Part], seeds: list[int], *, num_steps: int, sampler: str = "euler",
        interval: tuple[float, float] = ALWAYS, size: tuple[int, int] | None = None,
        start: Start | None = None, network: FlowNetwork | None = None,
        progress: Callable[[int, int, Tensor], None] | None = None,
    ) -> Tensor:  # fmt: skip
        """Clean maps (B, C, h, w) for `parts` (see guidance.py), one for each seed.

        size: (h, w) of the map, None = as trained. start: a map to begin from. network: what
        stands for our own (a lean copy). progress: see `sampler.sample`.
        """
        config, start = self.config, start or Start()
        network = network or self.network
        height, width = size or (config.map_size, config.map_size)
        x_0 = noise(seeds, (config.channels, height, width)).to(next(self.network.parameters()))
        sigmas = noise_levels(num_steps, config.shift, start.strength)
        predict, x = guided(network, parts, interval, network.remember), x_0
        if start.known is not None:
            t = (1 - sigmas[:1]).expand(len(x_0)).to(x_0)
            known = start.known.expand_as(x_0)
            x = interpolate(x_0, known, t)
            if start.mask is not None:
                predict = kept(predict, known, start.mask)
        return sample(predict, x, sigmas, SAMPLERS[sampler], progress)

    def sample_few(
        self, embeddings: Embeddings, seeds: list[int],
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:  # fmt: skip
        """Like `sample`, by the distilled mode: `config.few_steps` network evaluations a picture.

        Its guidance scale is fixed, `config.few_steps_guidance`, and nothing is negative. Raises
        ModelError when the decoder has no such mode.
        """
        network = self.few_network()
        tell = None if progress is None else lambda done, total, clean: progress(done)
        maps = self.draw(
            [Part(self._told(embeddings), 1.0, 1.0)], seeds, num_steps=self.config.few_steps,
            network=network, progress=tell,
        )  # fmt: skip
        return self.space.decode(maps)

    def few_network(self) -> FlowNetwork:
        """The network of the distilled mode, kept until weights change: the clean map towards
        which to go straight to the next of `config.few_steps` Euler steps, guidance included.
        """
        if self.few_steps is None:
            raise ModelError("this decoder has no few-step mode; its config says few_steps=0")
        parts = [*self.network.parameters(), *self.few_steps.parameters()]
        state = tuple((p.data_ptr(), p._version) for p in parts)
        if self._few is None or self._few[0] != state:
            self._few = (state, self.few_steps.merged(plain(self.network)))
        return self._few[1]

    def _told(self, embeddings: Embeddings) -> Condition:
        bare = embeddings.tokens is None
        pooled_open = torch.full((len(embeddings),), bare, device=embeddings.pooled.device)
        return self.network.conditioner(embeddings, None, pooled_open)

    def _nothing(self, embeddings: Embeddings) -> Condition:
        closed = torch.zeros(len(embeddings), dtype=torch.bool, device=embeddings.pooled.device)
        return self.network.conditioner(Embeddings(embeddings.pooled), None, closed)
