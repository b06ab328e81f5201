"""Exchange: what a model gives to diffusers, and what it takes from there; a part of MMFM."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmfm.config import ModelConfig
from mmfm.decoder.published import PublishedDecoder, load_published
from mmfm.errors import ModelError
from mmfm.layers.plain import plain

_WAY_OUT = "load the backbone that it was published with"
LEAST_COSINE = 0.9  # between our vectors and those of the tower that a decoder was trained with


class Exchange:
    """Mixed into MMFM, whose parts it uses."""

    config: ModelConfig
    backbone: Any
    decoder: Any
    device: torch.device
    embed_images: Any
    embed_texts: Any
    _need: Any

    @property
    def autoencoder(self) -> Any:
        """The diffusers model of a decoder in vae space, else None."""
        return getattr(getattr(self.decoder, "space", None), "autoencoder", None)

    def to_diffusers(self) -> Any:
        """This model's decoder as a pipeline of diffusers, `mmfm.pipeline.MMFMPipeline`.

        It shares the weights: what moves or changes them there does so here. With
        `generator=pipe.generators(seed, n)` it draws what `generate(seed=seed, num_images=n,
        precision="fp32")` does.
        A published decoder gives the pipeline that it is.
        """
        decoder = self._need("decoder", "generates")
        if isinstance(decoder, PublishedDecoder):
            return decoder.pipeline
        from mmfm.pipeline import MMFMPipeline

        return MMFMPipeline.of(self.config, plain(self.backbone), plain(decoder), self.autoencoder)

    def with_decoder(self, source: Any, *, prior: Any = None, check: bool = True) -> Any:
        """This model with a decoder that was published for its backbone's embeddings.

        source: Stable unCLIP or Kandinsky 2.2, a folder, a name on the hub, or a pipeline; prior:
        that of KandinskyV22Pipeline. Texts are drawn through its prior or text encoder, stored
        vectors and pictures through this backbone; see `mmfm.decoder.published` for how long the
        vectors are made. check: compare our vectors with those of the tower that it brings.
        The other parts are shared with this model. Needs the extra `unclip`.

        Raises ModelError when it cannot be had, reads vectors of another length, or of another
        space.
        """
        decoder = load_published(source, prior)
        width = self.config.backbone.embed_dim
        if decoder.pooled_width != width:
            raise ModelError(
                f"{_named(source)} reads vectors of {decoder.pooled_width} numbers, "
                f"{self.config.name} gives {width}; {_WAY_OUT}"
            )
        if check:
            self._expect_same_space(source, decoder)
        changed = copy.copy(self)
        changed.config = replace(self.config, decoder=None, generation=dict(decoder.generation))
        changed.decoder = decoder.to(self.device).eval()
        return changed

    def _expect_same_space(self, source: Any, decoder: PublishedDecoder) -> None:
        things, theirs = decoder.own_vectors()
        texts = isinstance(things[0], str)
        mine = self.embed_texts(things) if texts else self.embed_images(things)
        theirs = nn.functional.normalize(theirs.float(), dim=1).cpu().numpy()
        cosine = float(np.sum(mine * theirs, axis=1).mean())
        if cosine < LEAST_COSINE:
            raise ModelError(
                f"{_named(source)} was trained on another space than that of {self.config.name} "
                f"(the cosine of their vectors of the same {'texts' if texts else 'pictures'} is "
                f"{cosine:.2f}, wanted {LEAST_COSINE} or more); {_WAY_OUT}"
            )


def _named(source: Any) -> str:
    return str(source) if isinstance(source, (str, Path)) else type(source).__name__
