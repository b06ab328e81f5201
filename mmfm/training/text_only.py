"""Captions without pictures as training data: the text tower's vector stands in for a picture's.

In a contrastive space the two lie in different cones (the modality gap). What is nearest to a
picture's vector is therefore not the text's vector but that vector moved by the mean difference
(DeCap, arXiv:2303.03032, corrects the same gap by a memory of texts), and noise covers what the
move leaves (CapDec, arXiv:2211.00575). A head trained so through its pooled port reads pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mmfm.encoders.backbone import Backbone
from mmfm.training.seen import SeenInMemory

_CHUNK = 256  # texts encoded at once


@torch.no_grad()
def text_vectors(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    """(N, D) unit vectors of texts, float32, on the CPU."""
    parts = [list(texts[i : i + _CHUNK]) for i in range(0, len(texts), _CHUNK)]
    device = backbone.pixel_mean.device
    said = [backbone.encode_texts(backbone.tokenize(part).to(device)).pooled for part in parts]
    return torch.cat(said).float().cpu()


def mean_shift(pictures: Tensor, texts: Tensor) -> Tensor:
    """(D,) from the mean text vector to the mean picture vector; both (N, D), any pairing."""
    return pictures.mean(dim=0) - texts.mean(dim=0)


def texts_as_pictures(texts: Tensor, shift: Tensor | float) -> SeenInMemory:
    """What a tower would roughly say of pictures with these texts (N, D): pooled vectors alone."""
    return SeenInMemory(F.normalize(texts + shift, dim=-1))
