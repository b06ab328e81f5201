"""Contrastive losses: pure functions of unit vectors.

Both take `groups`: pictures and texts of one group (the same name) are not pushed apart. In a
corpus that draws every concept in several styles, a batch holds such pairs all the time.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def softmax_loss(images: Tensor, texts: Tensor, scale: Tensor, groups: Tensor) -> Tensor:
    """Symmetric InfoNCE (CLIP, 2103.00020); images, texts (B, D) unit length, groups (B,) ids.

    Off-diagonal pairs of one group are left out of the denominators.
    """
    logits = scale * images @ texts.T
    twins = (groups[:, None] == groups[None]) & ~torch.eye(
        len(groups), dtype=torch.bool, device=groups.device
    )
    logits = logits.masked_fill(twins, float("-inf"))
    target = torch.arange(len(groups), device=groups.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def sigmoid_loss(
    images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, groups: Tensor
) -> Tensor:
    """Pairwise sigmoid loss (SigLIP, 2303.15343), averaged over B; one group = positive pairs."""
    logits = scale * images @ texts.T + bias
    sign = 2.0 * (groups[:, None] == groups[None]).to(logits.dtype) - 1.0
    return -F.logsigmoid(sign * logits).sum() / len(groups)
