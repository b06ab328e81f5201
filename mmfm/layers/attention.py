"""Multi-head attention on fused projections, through torch's own fused kernel.

Axis suffixes: B batch, L query length, M memory length, A heads, K head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """x (B, L, width) -> (B, L, width), not causal; mask (B, L) True = may be read."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (_split(y, self.num_heads) for y in self.qkv(x).chunk(3, dim=-1))  # BALK
        allowed = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, L)
        return self.out(_merge(attend(q, k, v, allowed)))


class CrossAttention(nn.Module):
    """x (B, L, width) reads memory (B, M, memory_width); mask (B, M) True = may be read, or what
    is added to scores, (B, L or 1, M).

    What is read many times is remembered once: `read(x, *remember(memory), mask)` is the same.
    """

    def __init__(self, width: int, memory_width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(memory_width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.read(x, *self.remember(memory), mask)

    def remember(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the memory, (B, A, M, K) each."""
        k, v = (_split(y, self.num_heads) for y in self.kv(memory).chunk(2, dim=-1))
        return k, v

    def read(self, x: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        q = _split(self.q(x), self.num_heads)
        if mask is not None:
            mask = mask[:, None] if mask.dim() == 3 else mask[:, None, None]  # (B, 1, L or 1, M)
        return self.out(_merge(attend(q, k, v, mask)))


def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Attention of q (B, A, L, K) to k, v (B, A, M, K); allowed: broadcasts to (B, A, L, M), bool
    or what is added to scores.

    why two ways: the gradient of torch's fused kernel takes half of a bf16 training step on short
    sequences on a CPU, thirty times what the plain products take (docs/experiments.md).
    """
    if not (q.requires_grad and q.dtype == torch.bfloat16 and q.device.type == "cpu"):
        if allowed is not None and allowed.dtype != torch.bool:
            allowed = allowed.to(q)  # the kernel takes no other type
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if allowed is not None and allowed.dtype == torch.bool:
        scores = scores.masked_fill(~allowed, float("-inf"))
    elif allowed is not None:
        scores = scores + allowed
    return scores.softmax(dim=-1, dtype=torch.float32).to(v) @ v


def _split(x: Tensor, num_heads: int) -> Tensor:
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)  # BLE -> BALK


def _merge(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)  # BALK -> BLE
