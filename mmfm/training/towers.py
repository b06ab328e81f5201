"""Stage one: towers, caption head and pixel decoder, jointly, from scratch.

L = contrastive + caption + reconstruction. The contrastive loss is never switched off while the
towers train; captions and reconstruction teach the grid what the pooled vector does not need.
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
from mmfm.device import device_of
from mmfm.encoders.backbone import Backbone
from mmfm.training.augment import jitter
from mmfm.training.caption import CaptionShares, caption_loss, caption_pair
from mmfm.training.losses import sigmoid_loss, softmax_loss
from mmfm.training.reconstruction import psnr, reconstruction_loss
from mmfm.training.sheet import pairs_sheet


class Towers(nn.Module):
    """The three parts that stage one trains."""

    def __init__(
        self, backbone: Backbone, captioner: Captioner, pixel_decoder: PixelDecoder
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.captioner = captioner
        self.pixel_decoder = pixel_decoder


@dataclass(frozen=True, kw_only=True)
class TowersWeights(CaptionShares):
    """Weights of the losses, and chances of what a step sees."""

    caption: float = 0.5
    reconstruction: float = 5.0
    name_share: float = 0.6  # of contrastive texts that are the plain name


class TowersTask:
    """Joint loss on packed drawings; retrieval, captions and PSNR on held-out ones."""

    def __init__(
        self,
        module: Towers,
        vocabulary: Vocabulary,
        train: PackedPictures,
        held_out: PackedPictures,
        weights: TowersWeights | None = None,
    ) -> None:
        self.module = module
        self.vocabulary = vocabulary
        self.train = train
        self.held_out = held_out
        self.weights = weights or TowersWeights()
        names = {name: i for i, name in enumerate(sorted({c[0] for c in train.captions}))}
        self.groups = torch.tensor([names[c[0]] for c in train.captions])

    def loss(self, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, dict]:
        weights, module, device = self.weights, self.module, device_of(self.module)
        draws = torch.rand(2, len(rows), generator=generator).tolist()
        images = jitter(torch.from_numpy(self.train.on_ground(rows)).to(device), generator)
        texts = []
        for row, draw in zip(rows, draws[0], strict=True):
            captions = self.train.captions[row]
            share = weights.name_share
            other = int((draw - share) / (1 - share) * len(captions)) if draw >= share else 0
            texts.append(captions[min(other, len(captions) - 1)])
        pairs = [
            caption_pair(self.train.captions[row], self.train.meta[row], draw)
            for row, draw in zip(rows, draws[1], strict=True)
        ]
        backbone = module.backbone
        seen = backbone.encode_images(images)
        said = backbone.encode_texts(backbone.tokenize(texts).to(device))
        groups = self.groups[torch.from_numpy(rows)].to(device)
        if backbone.config.loss == "softmax":
            contrastive = softmax_loss(seen.pooled, said.pooled, backbone.logit_scale, groups)
        else:
            contrastive = sigmoid_loss(
                seen.pooled, said.pooled, backbone.logit_scale, backbone.logit_bias, groups
            )
        caption, _ = caption_loss(
            module.captioner, self.vocabulary, seen, pairs, weights, generator
        )
        reconstruction = reconstruction_loss(module.pixel_decoder(seen.tokens), images)
        total = contrastive + weights.caption * caption + weights.reconstruction * reconstruction
        parts = {"contrastive": contrastive.detach(), "caption": caption.detach(),
                 "reconstruction": reconstruction.detach()}  # fmt: skip
        return total, parts

    def evaluate(self, module: nn.Module) -> tuple[dict[str, Any], dict[str, Image.Image]]:
        """Recall of the name among the held-out pictures, PSNR, and the caption loss."""
        rows = np.arange(min(1000, len(self.held_out)))
        device = device_of(module)
        images = torch.from_numpy(self.held_out.on_ground(rows)).to(device)
        names = [self.held_out.captions[r][0] for r in rows]
        seen = module.backbone.encode_images(images)
        said = module.backbone.encode_texts(module.backbone.tokenize(names).to(device))
        scores = said.pooled @ seen.pooled.T
        ids = {name: i for i, name in enumerate(dict.fromkeys(names))}
        groups = torch.tensor([ids[name] for name in names]).to(device)
        best = scores.topk(min(10, len(rows))).indices
        hits = (groups[best] == groups[:, None]).float().cumsum(1).clamp(max=1)
        caption, _ = caption_loss(
            module.captioner, self.vocabulary, seen, [("", name) for name in names]
        )
        rebuilt = module.pixel_decoder(seen.tokens).clamp(-1, 1)
        numbers = {
            "held_out": len(rows),
            "held_out_recall@1": round(hits[:, 0].mean().item(), 4),
            "held_out_recall@10": round(hits[:, -1].mean().item(), 4),
            "held_out_caption_loss": round(caption.item(), 4),
            "held_out_psnr": round(psnr(rebuilt, images).mean().item(), 3),
        }
        return numbers, {"reconstruction": pairs_sheet(images[:24], rebuilt[:24])}
