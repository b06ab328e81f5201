"""What the image tower says of squares, as it is and changed a little, for heads to learn from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mmfm.data.packed import PackedPictures
from mmfm.encoders.backbone import Backbone
from mmfm.training.augment import jitter
from mmfm.training.seen import SeenInMemory, SeenViews, tokens_of

CHUNK = 64


def as_read(backbone: Backbone, images: Tensor) -> Tensor:
    """images (B, 3, H, W) in [-1, 1] -> normalised as the tower's `preprocess_cfg` says."""
    return ((images + 1) * 127.5 - backbone.pixel_mean) / backbone.pixel_std


@torch.no_grad()
def look(
    backbone: Backbone, squares: PackedPictures, *, num_views: int = 1, seed: int = 0,
    bf16: bool = False, tell: Callable[[int], None] = lambda count: None,
) -> SeenViews:  # fmt: skip
    """Every picture in `num_views` views, the first as it is and exact, the others jittered.

    bf16: of the changed views, which it changes less than the jitter does. tell: called with the
    number of pictures encoded since the last call.
    """
    backbone.eval()
    views = []
    for view in range(num_views):
        generator = torch.Generator().manual_seed(1000 * seed + view)
        pooled, tokens = [], []
        for start in range(0, len(squares), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(squares)))
            images = torch.from_numpy(squares.on_ground(rows))
            if view:
                images = jitter(images, generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16 and view > 0):
                said = backbone.encode_images(as_read(backbone, images))
            pooled.append(said.pooled.float())
            tokens.append(tokens_of(said).half())
            tell(len(rows))
        views.append(SeenInMemory(torch.cat(pooled), torch.cat(tokens)))
    return SeenViews(views)


@torch.no_grad()
def read(backbone: Backbone, texts: list[str]) -> Tensor:
    """(N, D) unit vectors of texts, float32."""
    parts = [texts[i : i + 4 * CHUNK] for i in range(0, len(texts), 4 * CHUNK)]
    said = [backbone.encode_texts(backbone.tokenize(part)).pooled.float() for part in parts]
    return torch.cat(said) if said else torch.zeros(0, backbone.config.embed_dim)
