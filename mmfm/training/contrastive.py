"""Contrastive pre-training of an open_clip backbone on decoded batches.

The task of `mmfm train`: both towers, softmax or sigmoid loss over all pairs of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.distributed import ProcessGroup

from mmfm.data.batch import Batch
from mmfm.encoders.backbone import Backbone
from mmfm.errors import DataError
from mmfm.training.losses import sigmoid_loss, softmax_loss

_CHUNK = 1024  # queries compared with the whole gallery at once
# of the parameter, whose exponential is then at most 100: above that `Backbone.logit_scale` is
# constant, its gradient zero, and the scale would never come back
_MAX_LOG_SCALE = 4.60517


class Batches(Protocol):
    """Held-out data: `batch(step)` for every step below `num_batches`."""

    num_batches: int

    def batch(self, step: int) -> Batch: ...


class ContrastiveTask:
    """A `PairTask` over `Batch`: the loss that the backbone's config names, recall on held-out."""

    def __init__(
        self, backbone: Backbone, held_out: Batches | None = None, *, captions: str = "first",
        same_caption: bool = False, group: ProcessGroup | None = None,
    ) -> None:  # fmt: skip
        """captions: the "first" of each sample, or one drawn at "random" every time.

        same_caption: pairs whose captions are the same text are positive pairs of each other.
        group: the processes that share the batch; None when there is one.
        """
        self.module = backbone
        self.held_out = held_out
        self.captions = captions
        self.same_caption = same_caption
        self.group = group

    def encode(
        self, batch: Batch, generator: torch.Generator
    ) -> tuple[Sequence[Tensor], None, dict[str, Any]]:
        """Pooled pictures and texts, (B, D) each, and under `same_caption` (B,) ids of captions."""
        texts = self._texts(batch, generator)
        features = list(_pooled(self.module, batch, texts))
        if self.same_caption:
            features.append(caption_ids(texts).to(features[0].device))
        return features, None, {}

    def pair_loss(self, features: Sequence[Tensor]) -> Tensor:
        """The loss of all pairs, over all processes of the group; the scale is kept within 100."""
        with torch.no_grad():
            self.module.towers.logit_scale.clamp_(max=_MAX_LOG_SCALE)
        images, texts = features[:2]
        groups = features[2] if self.same_caption else None
        return _loss(self.module, images, texts, groups, self.group)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """The mean loss of the batch."""
        features, _, parts = self.encode(batch, generator)
        return self.pair_loss(features), parts

    def evaluate(self, module: Backbone) -> tuple[dict[str, Any], dict[str, Image.Image]]:
        """Recall@1/5/10 in both directions and the loss, on the held-out data.

        Each picture is asked for by its first caption; pictures with the same caption are right
        answers for each other. The loss is the mean over held-out batches, so it depends on their
        size. Memory: (N, D) vectors, and 1024 rows of the N x N scores at a time.
        """
        if self.held_out is None:
            return {}, {}
        images, texts, groups, losses = [], [], [], []
        for step in range(self.held_out.num_batches):
            batch = self.held_out.batch(step)
            said = [_captioned(batch, i)[0] for i in range(len(batch))]
            seen, heard = _pooled(module, batch, said)
            ids = caption_ids(said).to(seen.device)
            losses.append(_loss(module, seen, heard, ids if self.same_caption else None, None))
            images.append(seen)
            texts.append(heard)
            groups.append(ids)
        figures = recall(torch.cat(images), torch.cat(texts), torch.cat(groups))
        figures["loss"] = torch.stack(losses).mean().item()
        numbers = {f"held_out_{name}": round(value, 4) for name, value in figures.items()}
        return {"held_out": sum(len(part) for part in images), **numbers}, {}

    def _texts(self, batch: Batch, generator: torch.Generator) -> list[str]:
        options = [_captioned(batch, i) for i in range(len(batch))]
        if self.captions == "first":
            return [captions[0] for captions in options]
        draws = torch.rand(len(batch), generator=generator).tolist()
        return [captions[int(u * len(captions))] for captions, u in zip(options, draws)]


def caption_ids(texts: Sequence[str]) -> Tensor:
    """(B,) int64, equal for equal texts in any batch and process: 63 bits of their sha256."""
    digests = [sha256(text.encode()).digest()[:8] for text in texts]
    return torch.tensor([int.from_bytes(digest, "big") >> 1 for digest in digests])


def recall(images: Tensor, texts: Tensor, groups: Tensor) -> dict[str, float]:
    """Recall@1/5/10 of N pairs, both directions; images, texts (N, D) unit length, groups (N,).

    A hit is any item of the query's group among the first k; an item of another group with an
    equal score counts as before it.
    """
    figures = {}
    both = (("text_to_image", texts, images), ("image_to_text", images, texts))
    for name, queries, gallery in both:
        ranks = torch.cat([
            _ranks(queries[i : i + _CHUNK] @ gallery.T, groups[i : i + _CHUNK, None] == groups)
            for i in range(0, len(queries), _CHUNK)
        ])  # fmt: skip
        for k in (1, 5, 10):
            figures[f"{name}_recall@{k}"] = (ranks < k).float().mean().item()
    return figures


def _ranks(scores: Tensor, hits: Tensor) -> Tensor:
    """(Q, N), (Q, N) -> (Q,): wrong items before the first right one."""
    best = scores.masked_fill(~hits, float("-inf")).amax(dim=1, keepdim=True)
    return ((scores >= best) & ~hits).sum(dim=1)


def _captioned(batch: Batch, place: int) -> tuple[str, ...]:
    if not batch.captions[place]:
        raise DataError(
            f"sample {batch.keys[place]!r} has no caption; contrastive training needs one each: "
            "filter such samples out, or let the loader skip them"
        )
    return batch.captions[place]


def _pooled(module: Backbone, batch: Batch, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Through `module.forward`, so that what wraps the module sees it; float32 for the loss."""
    device = module.pixel_mean.device
    pixels = torch.from_numpy(np.ascontiguousarray(batch.images))
    token_ids = module.tokenize(texts)
    length = module.text_length(token_ids)  # while the ids are here: asking a GPU waits for it
    images, heard = module(
        pixels.to(device, non_blocking=True), token_ids.to(device, non_blocking=True), length
    )
    return images.float(), heard.float()


def _loss(
    module: Backbone, images: Tensor, texts: Tensor, groups: Tensor | None,
    group: ProcessGroup | None,
) -> Tensor:  # fmt: skip
    scale, bias = module.logit_scale, module.logit_bias
    if module.config.loss == "softmax":
        return softmax_loss(images, texts, scale, groups, group=group)
    return sigmoid_loss(images, texts, scale, bias, groups, group=group)
