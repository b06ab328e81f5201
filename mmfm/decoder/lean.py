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

from mmfm.layers.attention import CrossAttention, SelfAttention
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
    if isinstance(network, (SelfAttention, CrossAttention)):
        # as in LeanMLP, what is added to float32 next needs no widening of its own
        twin._modules["out"] = twin._modules["out"].product
    return twin


class Product(nn.Module):
    """x (..., C) in `dtype` times a matrix (O, C), plus a bias: (..., O) in `dtype`."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.weight = weight.detach().to(dtype).contiguous()
        self.bias = None if bias is None else bias.detach().to(dtype)
        self.packed = _packed(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype)
        if self.packed is None:
            return F.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


def _packed(weight: Tensor) -> Tensor | None:
    """A matrix in the layout that oneDNN multiplies with, None where there is no such thing.

    why: F.linear makes that layout anew at every call, which takes longer than the product itself
    for a single picture. The two operators are those that torch.compile uses.
    """
    usable = weight.device.type == "cpu" and weight.dtype == torch.bfloat16
    if not (usable and torch.backends.mkldnn.is_available()):
        return None
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        torch.ops.mkldnn._linear_pointwise(weight[:1], packed, None, "none", [], "")
    except (AttributeError, RuntimeError):  # another torch, or a processor without bfloat16
        return None
    return packed


class LeanLinear(nn.Module):
    """nn.Linear in `dtype`, float32 in and out."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.product = Product(linear.weight, linear.bias, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x).float()


class LeanMLP(nn.Module):
    """MLP in `dtype` from its first product to its last; the sum it goes into is float32."""

    def __init__(self, mlp: MLP, dtype: torch.dtype) -> None:
        super().__init__()
        self.fc1, self.fc2 = (Product(fc.weight, fc.bias, dtype) for fc in (mlp.fc1, mlp.fc2))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # added to float32 next


class LeanConv(nn.Module):
    """nn.Conv2d in `dtype`, float32 in and out; 3x3 ones of small maps as one matrix product."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.stride, self.padding = conv.stride, conv.padding
        weight = conv.weight.detach().to(dtype)
        self.bias = None if conv.bias is None else conv.bias.detach().to(dtype)
        self.weight = weight.to(memory_format=torch.channels_last)
        plain = (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
        rows = weight.permute(0, 2, 3, 1).flatten(1)  # (O, 9 C)
        self.rows = Product(rows, conv.bias, dtype) if plain else None

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
            y = self.rows(gathered).float()
            return y.transpose(1, 2).unflatten(2, (height, width))
        x = x.to(self.weight.dtype, memory_format=torch.channels_last)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding).float()


@cache
def _neighbours(height: int, width: int) -> Tensor:
    """(9 N,): for each place in row order its 3x3 neighbours, N for those beyond the border."""
    places = torch.full((height + 2, width + 2), height * width)
    places[1:-1, 1:-1] = torch.arange(height * width).view(height, width)
    return places.unfold(0, 3, 1).unfold(1, 3, 1).flatten()
