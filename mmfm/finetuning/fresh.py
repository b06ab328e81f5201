"""Heads for a backbone that has none, sized by its towers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from mmfm import heads
from mmfm.captioner.vocabulary import Vocabulary
from mmfm.config import CaptionerConfig, DecoderConfig, ModelConfig, PixelDecoderConfig
from mmfm.errors import ModelError
from mmfm.model import MMFM
from mmfm.training.seen import tokens_of

_WIDEST = 384  # a small set cannot fill a wider head, and cached epochs are as fast as the head
_HEAD = 64  # width of an attention head, where the tower is no narrower


def lacking(model: MMFM, skills: Iterable[str]) -> list[str]:
    """Of `caption` and `decoder`, those that are wanted and that the model has no head for."""
    parts = {"caption": model.captioner, "decoder": model.decoder}
    return [name for name in skills if name in parts and parts[name] is None]


def with_heads(model: MMFM, skills: list[str], texts: list[str], seed: int) -> MMFM:
    """The model with fresh heads for `skills`; its towers and other heads are the same objects.

    texts: decide the vocabulary of a caption head. The decoder works in `grid` space, with a fresh
    pixel decoder, where the image tokens are a square; else on folded pixels.
    Raises ModelError when a head cannot read these towers.
    """
    if not skills:
        return model
    sizes = _Sizes.of(model)
    config: ModelConfig = model.config
    vocabulary = model.vocabulary
    if "caption" in skills:
        tokenizer = model.backbone.tokenizer
        if not hasattr(tokenizer, "byte_decoder"):
            raise ModelError(
                f"{model.name} has a tokenizer that is not CLIP's, which a caption head needs; "
                "leave it out: --heads contrastive,decoder"
            )
        vocabulary = Vocabulary.build(texts, tokenizer)
        config = replace(config, captioner=sizes.captioner(len(vocabulary)))
    if "decoder" in skills:
        pixel_decoder, decoder = sizes.decoder()
        config = replace(config, pixel_decoder=pixel_decoder, decoder=decoder,
                         generation={"num_steps": 25, "guidance_scale": 3.0})  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = heads.build(config)
    own = {k: v for k, v in model.parts.items() if k not in ("backbone", "autoencoder")}
    if "decoder" in skills:
        own.pop("pixel_decoder", None)
    return MMFM(config, model.backbone, vocabulary=vocabulary, metrics=model.metrics,
                device=str(model.device), **{**fresh, **own})  # fmt: skip


class _Sizes:
    """What the heads must fit: tokens and vectors of the towers."""

    def __init__(self, count: int, width: int, text_width: int, pooled: int, image: int) -> None:
        self.count, self.width, self.text_width = count, width, text_width
        self.pooled, self.image = pooled, image
        self.side = math.isqrt(count)
        self.is_square = self.side**2 == count and image % self.side == 0
        self.head = min(_HEAD, width)
        self.own = max(self.head, min(width, _WIDEST) // self.head * self.head)

    @classmethod
    @torch.no_grad()
    def of(cls, model: MMFM) -> _Sizes:
        backbone, size = model.backbone, model.image_size
        seen = tokens_of(backbone.encode_images(torch.zeros(1, 3, size, size)))
        said = tokens_of(backbone.encode_texts(backbone.tokenize(["a"])))
        return cls(seen.shape[1], seen.shape[2], said.shape[2], model.embed_dim, size)

    def captioner(self, vocab_size: int) -> CaptionerConfig:
        return CaptionerConfig(
            vocab_size=vocab_size, token_width=self.width, pooled_width=self.pooled,
            width=self.own, depth=3, num_heads=self.own // self.head, max_tokens=64,
        )  # fmt: skip

    def decoder(self) -> tuple[PixelDecoderConfig | None, DecoderConfig]:
        shared: dict[str, Any] = {"text_width": self.text_width, "pooled_width": self.pooled,
                                    "head_width": self.head}  # fmt: skip
        if self.is_square:
            pixels = PixelDecoderConfig(
                token_width=self.width, grid_size=self.side, patch_size=self.image // self.side,
                width=self.own, depth=2, num_heads=self.own // self.head,
            )  # fmt: skip
            shift = max(1.0, math.sqrt(self.count * self.width / 4096))
            return pixels, DecoderConfig(
                space="grid", channels=self.width, map_size=self.side, widths=(self.own,),
                depths=(2,), attention=(True,), shift=shift, **shared,
            )  # fmt: skip
        patch = next((p for p in range(max(1, self.image // 16), self.image + 1)
                      if self.image % (2 * p) == 0), None)  # fmt: skip
        if patch is None:
            raise ModelError(f"pictures of {self.image} px cannot be folded; leave decoder out")
        shift = max(1.0, math.sqrt(3 * self.image**2 / 4096))
        return None, DecoderConfig(
            space="pixel", channels=3 * patch**2, map_size=self.image // patch, patch_size=patch,
            widths=(self.own, self.own), depths=(1, 2), attention=(False, True), shift=shift,
            **shared,
        )  # fmt: skip
