"""The towers learn new pictures and stay what they were.

L = contrastive + caption + reconstruction + keep. Keep is self-distillation to the frozen copy of
the towers (2106.11520 has the idea for captions, 1606.09282 in general): vectors and image tokens
of original pictures, and vectors of words, stay near to what the copy says of them; of new pictures
only a little. The contrastive loss is never off while towers train.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmfm.captioner.network import Captioner
from mmfm.captioner.vocabulary import Vocabulary
from mmfm.data.packed import PackedPictures
from mmfm.decoder.pixels import PixelDecoder
from mmfm.encoders.backbone import Backbone
from mmfm.finetuning.looking import as_read, look, read
from mmfm.training.augment import jitter
from mmfm.training.caption import CaptionShares, caption_loss
from mmfm.training.contrastive import recall
from mmfm.training.losses import sigmoid_loss, softmax_loss
from mmfm.training.reconstruction import reconstruction_loss
from mmfm.training.seen import Seen, tokens_of

_WORDS_AT_ONCE = 96
_NAME_SHARE = 0.6  # of contrastive texts that are the first caption


class Adapted(nn.Module):
    """The towers, and the heads that learn with them; a head may be absent."""

    def __init__(
        self, backbone: Backbone, captioner: Captioner | None = None,
        pixel_decoder: PixelDecoder | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.backbone = backbone
        self.captioner = captioner
        self.pixel_decoder = pixel_decoder


@dataclass(frozen=True, kw_only=True)
class Weights(CaptionShares):
    """Weights of the losses."""

    caption: float = 0.5
    reconstruction: float = 5.0
    keep_pictures: float = 5.0  # vectors of original pictures
    keep_tokens: float = 1.0  # image tokens, of all pictures, as a share of their variance
    keep_words: float = 6.0  # vectors of words
    keep_new: float = 1.0  # vectors of new pictures


@dataclass(frozen=True)
class Before:
    """What the frozen towers say. seen: of every picture; texts: of `words`, (W, D)."""

    seen: Seen
    words: list[str]
    texts: Tensor
    is_original: np.ndarray  # (N,) bool: pictures that the model knew

    @property
    def spread(self) -> float:
        """Variance of the image tokens."""
        rows = np.arange(min(256, len(self.is_original)))
        return float(tokens_of(self.seen.take(rows)).var())


class AdaptationTask:
    """Joint loss on squares; recall on held-out new pictures and on original ones."""

    def __init__(
        self, module: Adapted, vocabulary: Vocabulary | None, train: PackedPictures,
        before: Before, held_out: PackedPictures, original: PackedPictures | None,
        weights: Weights | None = None,
    ) -> None:  # fmt: skip
        """train: new pictures and original ones to practise, all captioned; `before` is of them.

        original: pictures that tell whether something is forgotten.
        """
        self.module, self.vocabulary, self.train = module, vocabulary, train
        self.before, self.held_out, self.original = before, held_out, original
        self.weights = weights or Weights()
        names = {name: i for i, name in enumerate(dict.fromkeys(c[0] for c in train.captions))}
        self.groups = torch.tensor([names[c[0]] for c in train.captions])
        self.spread = before.spread

    def loss(self, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        weights, module, backbone = self.weights, self.module, self.module.backbone
        draws = torch.rand(2, len(rows), generator=generator).tolist()
        images = jitter(torch.from_numpy(self.train.on_ground(rows)), generator)
        texts = [said_of(self.train.captions[r], d) for r, d in zip(rows, draws[0], strict=True)]
        seen = backbone.encode_images(as_read(backbone, images))
        said = backbone.encode_texts(backbone.tokenize(texts))
        contrastive = pair_loss(backbone, seen.pooled, said.pooled,
                                self.groups[torch.from_numpy(rows)])  # fmt: skip
        parts = {"contrastive": contrastive}
        total = contrastive
        if module.captioner is not None and self.vocabulary is not None:
            pairs = [
                asked(self.train.captions[row], self.train.meta[row], draw)
                for row, draw in zip(rows, draws[1], strict=True)
            ]
            parts["caption"], _ = caption_loss(
                module.captioner, self.vocabulary, seen, pairs, weights, generator
            )
            total = total + weights.caption * parts["caption"]
        if module.pixel_decoder is not None:
            rebuilt = module.pixel_decoder(tokens_of(seen))
            parts["reconstruction"] = reconstruction_loss(rebuilt, images)
            total = total + weights.reconstruction * parts["reconstruction"]
        kept = self._kept(rows, seen.pooled, tokens_of(seen), generator)
        for name, value in kept.items():
            total = total + getattr(weights, name) * value
        return total, {k: v.detach().item() for k, v in {**parts, **kept}.items()}

    def _kept(
        self, rows: np.ndarray, pooled: Tensor, tokens: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """How far the towers have gone from their frozen copy: 0 = nowhere."""
        before = self.before.seen.take(rows)
        old = torch.from_numpy(self.before.is_original[rows])
        apart = 1 - (pooled * before.pooled).sum(dim=1)
        far = {"keep_tokens": (tokens - tokens_of(before)).square().mean() / self.spread}
        if old.any():
            far["keep_pictures"] = apart[old].mean()
        if not old.all():
            far["keep_new"] = apart[~old].mean()
        if self.before.words:
            some = torch.randint(len(self.before.words), (_WORDS_AT_ONCE,), generator=generator)
            words = [self.before.words[i] for i in some.tolist()]
            now = self.module.backbone.encode_texts(self.module.backbone.tokenize(words)).pooled
            far["keep_words"] = (1 - (now * self.before.texts[some]).sum(dim=1)).mean()
        return far

    def evaluate(self, module: nn.Module) -> tuple[dict[str, Any], dict[str, Image.Image]]:
        """Recall@1 and the rank of the first caption, both ways, on both sets of pictures."""
        numbers = found_in(module.backbone, self.held_out, "held_out")
        if self.original is not None:
            numbers |= found_in(module.backbone, self.original, "original")
        return numbers, {}


def pair_loss(backbone: Backbone, images: Tensor, texts: Tensor, groups: Tensor) -> Tensor:
    """The contrastive loss that the checkpoint was trained with."""
    if backbone.config.loss == "softmax":
        return softmax_loss(images, texts, backbone.logit_scale, groups)
    assert backbone.logit_bias is not None
    return sigmoid_loss(images, texts, backbone.logit_scale, backbone.logit_bias, groups)


@torch.no_grad()
def found_in(backbone: Backbone, squares: PackedPictures, name: str) -> dict[str, float]:
    """Mean of both directions' recall@1, and of 1 / rank (a smoother figure), of N pairs."""
    names = [captions[0] for captions in squares.captions]
    texts = read(backbone, names)
    pictures = look(backbone, squares).take(np.arange(len(squares)), grids=False).pooled
    return ranks(pictures, texts, names, name)


def ranks(pictures: Tensor, texts: Tensor, names: list[str], name: str) -> dict[str, float]:
    """The same of vectors (N, D) and (N, D); pictures of one name are right for each other."""
    ids = {text: i for i, text in enumerate(dict.fromkeys(names))}
    groups = torch.tensor([ids[text] for text in names])
    figures = recall(pictures, texts, groups)
    both = (figures["text_to_image_recall@1"] + figures["image_to_text_recall@1"]) / 2
    inverse = [_reciprocal(a @ b.T, groups) for a, b in ((texts, pictures), (pictures, texts))]
    return {
        name: len(names),
        f"{name}_recall@1": round(both, 4),
        f"{name}_mrr": round(sum(inverse) / 2, 5),
    }


def _reciprocal(scores: Tensor, groups: Tensor) -> float:
    hits = groups[:, None] == groups
    best = scores.masked_fill(~hits, float("-inf")).amax(dim=1, keepdim=True)
    return (1 / (((scores >= best) & ~hits).sum(dim=1) + 1)).float().mean().item()


def said_of(captions: tuple[str, ...], draw: float) -> str:
    """One of the captions, the first more often than the others."""
    if draw < _NAME_SHARE or len(captions) < 2:
        return captions[0]
    place = int((draw - _NAME_SHARE) / (1 - _NAME_SHARE) * len(captions))
    return captions[min(place, len(captions) - 1)]


def asked(captions: tuple[str, ...], meta: dict, draw: float) -> tuple[str, str]:
    """(prompt, text) for the caption head: without a prompt it says the first caption."""
    if draw < 0.8:
        return "", captions[0]
    if draw < 0.88:
        return "a drawing of", captions[0]
    if draw < 0.94 and meta.get("style"):
        return "style:", meta["style"]
    if meta.get("keywords"):
        return "keywords:", ", ".join(meta["keywords"][:6])
    return "", captions[0]
