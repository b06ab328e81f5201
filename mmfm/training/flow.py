"""Stage two: the decoder's flow, on cached embeddings of the frozen towers.

Every picture and every caption is encoded once before the first step, or pictures never, when a
store has them; so are the latents of a `vae` space. No gradient reaches the towers. Text and pooled
vector are dropped independently, so that one network learns text to picture, vector to picture,
both, and neither (guidance needs it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmfm.captioner.network import add_noise
from mmfm.data.packed import PackedPictures
from mmfm.decoder.decoder import ImageDecoder
from mmfm.decoder.flow import Times, flow_loss, interpolate
from mmfm.decoder.vae import VaeSpace
from mmfm.device import device_of
from mmfm.encoders.backbone import Backbone
from mmfm.errors import InputError, ModelError
from mmfm.shapes import Embeddings
from mmfm.training.seen import Seen, SeenInMemory, expect_as_many, tokens_of
from mmfm.training.sheet import grid_sheet

_CHUNK = 256  # texts encoded at once


@dataclass(frozen=True, kw_only=True)
class FlowShares:
    """Chances, per sample, of what the network is told, and noise on the pooled port."""

    text: float = 0.65
    both: float = 0.1
    pooled: float = 0.15  # the rest is told nothing
    pooled_noise: float = 0.04
    name: float = 0.5  # of a text: the name alone; else the name with its style

    def __post_init__(self) -> None:
        if min(self.text, self.both, self.pooled) < 0 or self.text + self.both + self.pooled > 1:
            raise InputError(
                f"the shares of text, both and pooled are {self.text}, {self.both} and "
                f"{self.pooled}; wanted none below 0 and a sum of at most 1"
            )


@dataclass(frozen=True)
class Told:
    """What the network is told about a batch: embeddings, and which ports are open, (B,) bool."""

    embeddings: Embeddings
    text_open: Tensor
    pooled_open: Tensor


class FlowData:
    """Pictures as clean maps, with the cached embeddings of pictures and captions.

    Caches are on the CPU; what is taken from them is where the decoder is.
    """

    def __init__(
        self, backbone: Backbone, decoder: ImageDecoder, pictures: PackedPictures,
        seen: Seen | None = None,
    ) -> None:  # fmt: skip
        """seen: what the image tower said of `pictures`, from a store say; None runs the tower."""
        self.pictures = pictures
        self.space, self.device = decoder.space, device_of(decoder.network)
        self.grid = decoder.config.space == "grid"
        self.latents = _Latents(decoder, pictures) if decoder.config.space == "vae" else None
        texts = sorted({text for captions in pictures.captions for text in captions[:2]})
        self.text_rows = {text: i for i, text in enumerate(texts)}
        self.text_tokens, self.text_mask = _cache_texts(backbone, texts)
        self.seen = seen or SeenInMemory.of_pictures(backbone, pictures, grids=self.grid)
        expect_as_many(self.seen, len(pictures))

    def fit_space(self) -> None:
        """Set the space's statistics from at most 4,096 pictures."""
        rows = np.arange(min(4096, len(self.pictures)))
        if self.latents is not None:
            self.latents.space.fit_latents(self.latents.take(rows))
        else:
            self.space.fit(self._raw(rows))

    def maps(self, rows: np.ndarray, generator: torch.Generator | None = None) -> Tensor:
        """Clean maps (B, C, h, w); the generator is for latents that are drawn, not fixed."""
        if self.latents is not None:
            taken = self.latents.take(rows, generator).to(self.device)
            return self.latents.space.normalise(taken)
        return self.space.encode(self._raw(rows).to(self.device))

    def pooled(self, rows: np.ndarray) -> Tensor:
        """(B, D) vectors of the pictures."""
        return self.seen.take(rows, grids=False).pooled

    def told(self, texts: list[str], pooled: Tensor) -> Embeddings:
        """Cached text tokens with the given pooled vectors beside them."""
        rows = [self.text_rows[text] for text in texts]
        mask = self.text_mask[rows]
        length = int(mask.sum(dim=1).max())
        tokens = self.text_tokens[rows, :length].float()
        return Embeddings(pooled, tokens, mask[:, :length]).to(self.device)

    def draw(self, rows: np.ndarray, shares: FlowShares, generator: torch.Generator) -> Told:
        """For each picture one of its captions and its vector, each port open by chance."""
        draw = torch.rand(2, len(rows), generator=generator)
        texts = []
        for row, d in zip(rows, draw[0].tolist(), strict=True):
            captions = self.pictures.captions[row]
            # the name, or the name with its style; the tagged forms come second to these
            texts.append(captions[0] if d < shares.name or len(captions) < 2 else captions[1])
        pooled = add_noise(self.pooled(rows), shares.pooled_noise, generator)
        text_open = draw[1] < shares.text + shares.both
        pooled_open = (draw[1] >= shares.text) & (
            draw[1] < shares.text + shares.both + shares.pooled
        )
        ports = (is_open.to(self.device) for is_open in (text_open, pooled_open))
        return Told(self.told(texts, pooled), *ports)

    def _raw(self, rows: np.ndarray) -> Tensor:
        if self.grid:
            return tokens_of(self.seen.take(rows))
        return torch.from_numpy(self.pictures.on_ground(rows))


class _Latents:
    """What the autoencoder of a vae space said of every picture, in half precision.

    Raises ModelError when its maps are not those that the decoder's config describes.
    """

    def __init__(self, decoder: ImageDecoder, pictures: PackedPictures) -> None:
        self.space: VaeSpace = decoder.space
        config, means, deviations = decoder.config, [], []
        wanted = (config.channels, config.map_size, config.map_size)
        for start in range(0, len(pictures), _CHUNK // 8):
            rows = np.arange(start, min(start + _CHUNK // 8, len(pictures)))
            images = torch.from_numpy(pictures.on_ground(rows)).to(device_of(decoder.network))
            mean, deviation = self.space.posterior(images)
            if mean.shape[1:] != wanted:
                raise ModelError(
                    f"the autoencoder turns these pictures into maps of {tuple(mean.shape[1:])}, "
                    f"the decoder's config says {wanted}; set channels and map_size to the former"
                )
            means.append(mean.half().cpu())
            if config.sample_latents and deviation is not None:
                deviations.append(deviation.half().cpu())
        self.mean = torch.cat(means)
        self.deviation = torch.cat(deviations) if deviations else None

    def take(self, rows: np.ndarray, generator: torch.Generator | None = None) -> Tensor:
        """Latents (B, C, h, w) float32, not normalised."""
        deviation = None if self.deviation is None else self.deviation[rows].float()
        return self.space.draw(self.mean[rows].float(), deviation, generator)


class FlowTask:
    """Flow-matching loss; held-out loss per noise level and a sample sheet."""

    def __init__(
        self, decoder: ImageDecoder, train: FlowData, held_out: FlowData,
        shares: FlowShares | None = None, times: Times | None = None,
        beside: Callable[[torch.Generator], Tensor] | None = None,
    ) -> None:  # fmt: skip
        """beside: another loss of the decoder, added to the flow's in every step."""
        self.module = decoder
        self.train = train
        self.held_out = held_out
        self.shares = shares or FlowShares()
        self.times = times or Times()
        self.beside = beside

    def loss(self, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, dict]:
        told = self.train.draw(rows, self.shares, generator)
        loss = self.module.loss(
            self.train.maps(rows, generator), told.embeddings, told.text_open, told.pooled_open,
            generator, self.times,
        )  # fmt: skip
        if self.beside is None:
            return loss, {}
        beside = self.beside(generator)
        return loss + beside, {"flow": loss.detach(), "beside": beside.detach()}

    def evaluate(self, module: nn.Module) -> tuple[dict[str, Any], dict[str, Image.Image]]:
        """Text-conditioned loss at three noise levels on 512 held-out drawings; 32 samples."""
        rows = np.arange(min(512, len(self.held_out.pictures)))
        x_1 = self.held_out.maps(rows)
        names = [self.held_out.pictures.captions[r][0] for r in rows]
        told = self.held_out.told(names, self.held_out.pooled(rows))
        closed = torch.zeros(len(rows), dtype=torch.bool, device=x_1.device)
        condition = module.network.conditioner(told, None, closed)
        x_0 = torch.randn(x_1.shape, generator=torch.Generator().manual_seed(0)).to(x_1)
        numbers = {"held_out": len(rows)}
        for t in (0.1, 0.4, 0.7):
            times = torch.full((len(rows),), t, device=x_1.device)
            predicted = module.network(interpolate(x_0, x_1, times), times, condition)
            numbers[f"held_out_loss@{t}"] = round(flow_loss(predicted, x_0, x_1, times).item(), 4)
        first = self.held_out.told(names[:32], self.held_out.pooled(rows[:32]))
        made = module.sample(first, list(range(len(first))), num_steps=20, guidance_scale=3.0)
        return numbers, {"samples": grid_sheet(made), "real": grid_sheet(
            torch.from_numpy(self.held_out.pictures.on_ground(rows[:32])))}  # fmt: skip


def _cache_texts(backbone: Backbone, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Text tokens (U, T, W) in half precision and their mask (U, T), T that of the longest."""
    parts = [texts[i : i + _CHUNK] for i in range(0, len(texts), _CHUNK)]
    device = device_of(backbone)
    said = [backbone.encode_texts(backbone.tokenize(part).to(device)).to("cpu") for part in parts]
    tokens = [tokens_of(e).half() for e in said]
    length = max(part.shape[1] for part in tokens)
    masks = [e.mask if e.mask is not None else torch.ones(t.shape[:2], dtype=torch.bool)
             for e, t in zip(said, tokens, strict=True)]  # fmt: skip
    pad = nn.functional.pad
    return (
        torch.cat([pad(t, (0, 0, 0, length - t.shape[1])) for t in tokens]),
        torch.cat([pad(m, (0, length - m.shape[1])) for m in masks]),
    )
