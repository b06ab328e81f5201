"""The same network with leaves that compute faster, in bfloat16: a copy for drawing, not training.

Matrices are held in bfloat16 and multiplied so; sums, norms and the map between layers stay in
float32, so that the error of a product is not carried on. A 3x3 convolution of a small map spends
its time on borders and layout; gathered into rows it is one matrix product.
"""

from __future__ import annotations

import copy
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfm.layers.blocks import MLP

_SMALL = 64  # places of a map up to which gathering beats the library's convolution


def lean(network: nn.Module, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """A copy of `network` that computes products in `dtype`; norms and buffers are shared."""
    if isinstance(network, nn.Linear):
        return LeanLinear(network, dtype)
    if isinstance(network, nn.Conv2d):
        return LeanConv(network, dtype)
    if isinstance(network, MLP):
        return LeanMLP(network, dtype)
    twin = copy.copy(network)
    twin._modules = {
        name: None if child is None else lean(child, dtype)
        for name, child in network._modules.items()
    }
    return twin


class LeanLinear(nn.Module):
    """nn.Linear in `dtype`, float32 in and out."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = linear.weight.detach().to(dtype)
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias).float()


class LeanMLP(nn.Module):
    """MLP in `dtype` from its first product to its last, float32 in and out."""

    def __init__(self, mlp: MLP, dtype: torch.dtype) -> None:
        super().__init__()
        self.fc1, self.fc2 = LeanLinear(mlp.fc1, dtype), LeanLinear(mlp.fc2, dtype)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.linear(x.to(self.fc1.weight.dtype), self.fc1.weight, self.fc1.bias)
        return self.fc2(F.gelu(inner))


class LeanConv(nn.Module):
    """nn.Conv2d in `dtype`, float32 in and out; 3x3 ones of small maps as one matrix product."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.stride, self.padding = conv.stride, conv.padding
        weight = conv.weight.detach().to(dtype)
        self.bias = None if conv.bias is None else conv.bias.detach().to(dtype)
        self.weight = weight.to(memory_format=torch.channels_last)
        plain = (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
        self.rows = weight.permute(0, 2, 3, 1).flatten(1) if plain else None  # (O, 9 C)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if self.rows is not None and height * width <= _SMALL:
            tokens = x.flatten(2).transpose(1, 2)  # (B, N, C)
            count = tokens.shape[1]
            padded = tokens.new_empty(len(x), count + 1, tokens.shape[2], dtype=self.rows.dtype)
            padded[:, :count] = tokens
            padded[:, count] = 0  # the border
            places = _neighbours(height, width).to(x.device)
            gathered = padded.index_select(1, places).unflatten(1, (-1, 9)).flatten(2)
            y = F.linear(gathered, self.rows, self.bias).float()
            return y.transpose(1, 2).unflatten(2, (height, width))
        x = x.to(self.weight.dtype, memory_format=torch.channels_last)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding).float()


@cache
def _neighbours(height: int, width: int) -> Tensor:
    """(9 N,): for each place in row order its 3x3 neighbours, N for those beyond the border."""
    places = torch.full((height + 2, width + 2), height * width)
    places[1:-1, 1:-1] = torch.arange(height * width).view(height, width)
    return places.unfold(0, 3, 1).unfold(1, 3, 1).flatten()
