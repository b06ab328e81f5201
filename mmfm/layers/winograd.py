"""3x3 convolutions of small maps as matrix products: Winograd's F(2x2, 3x3) (Lavin, 1509.09308).

On a 4 x 4 map a library's convolution spends its time on borders and layout. Written as products
it reads and writes positions first, (P, B, C), without copies between: a fixed (16 tiles, P)
matrix brings the map into 16 frequencies of 2 x 2 tiles, one batched product mixes the channels,
a fixed matrix comes back. 64 products a channel pair instead of 144.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LARGEST = 8  # of a map's side: the fixed matrices grow with the fourth power of it

_INPUT = torch.tensor([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1.0]])
_KERNEL = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1.0]])
_OUTPUT = torch.tensor([[1, 1, 1, 0], [0, 1, -1, -1.0]])


class Conv3x3(nn.Conv2d):
    """nn.Conv2d(a, b, 3, padding=1); small even maps under bf16 autocast on a CPU go by products.

    why only there: in float32 the results would no longer be those of nn.Conv2d bit for bit.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel_size: Any = 3, stride: Any = 1,
        padding: Any = None, **more: Any,
    ) -> None:  # fmt: skip
        """Only the first two are ours to give.

        why the others: PEFT makes both parts of an adapter of the class that it changes, the second
        of them with a kernel of 1 x 1.
        """
        padding = (1 if kernel_size == 3 else 0) if padding is None else padding
        super().__init__(channels_in, channels_out, kernel_size, stride, padding, **more)
        self._kernel: tuple[Tensor, int, Tensor] | None = None  # of weights that do not learn

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        small = max(height, width) <= _LARGEST and not (height % 2 or width % 2)
        small = small and self.kernel_size == (3, 3)
        half = torch.get_autocast_dtype("cpu") == torch.bfloat16
        if small and x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and half:
            x = x.bfloat16()
            return convolve(x, self._transformed(x.dtype), self.bias)
        return super().forward(x)

    def _transformed(self, dtype: torch.dtype) -> Tensor:
        weight = self.weight
        if weight.requires_grad or weight.is_inference():
            return transform(weight, dtype)
        kept = self._kernel
        if kept is None or kept[0] is not weight or kept[1] != weight._version:
            self._kernel = kept = (weight, weight._version, transform(weight, dtype))
        return kept[2]


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (B, C, h, w), h and w even, weight (O, C, 3, 3) -> (B, O, h, w), padded by zeros."""
    return convolve(x, transform(weight, x.dtype), bias)


def transform(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A kernel (O, C, 3, 3) in the 16 frequencies of a tile: (16, C, O)."""
    into = _KERNEL.to(weight)
    return torch.einsum("fi,gj,ocij->fgco", into, into, weight).flatten(0, 1).to(dtype)


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """x (B, C, h, w) with a transformed kernel (16, C, O) of the same precision -> (B, O, h, w).

    The result lies in memory as (h, w, B, O): such an x is not copied.
    """
    batch, channels, height, width = x.shape
    into, back = (m.to(x) for m in _matrices(height, width))  # (16 T, P), (P, 16 T)
    flat = x.permute(2, 3, 0, 1).reshape(height * width, batch * channels)  # P (B C)
    mixed = torch.bmm((into @ flat).view(16, -1, channels), kernel)  # 16 (T B) O
    y = (back @ mixed.view(len(into), -1)).view(height, width, batch, -1)
    if bias is not None:
        y = y + bias.to(x)
    return y.permute(2, 3, 0, 1)


@cache
def _matrices(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Map -> frequencies of tiles (16 T, P), and frequencies -> map (P, 16 T)."""
    rows, columns = _along(height), _along(width)
    into = torch.einsum("afp,bgq->fgabpq", rows[0], columns[0])
    back = torch.einsum("paf,qbg->pqfgab", rows[1], columns[1])
    return into.reshape(-1, height * width), back.reshape(height * width, -1)


def _along(length: int) -> tuple[Tensor, Tensor]:
    """The same along one axis: (tiles, 4, length) and (length, tiles, 4)."""
    padded = F.pad(torch.eye(length), (0, 0, 1, 1))
    count = length // 2
    into = torch.stack([_INPUT @ padded[2 * i : 2 * i + 4] for i in range(count)])
    back = torch.zeros(length, count, 4)
    for i in range(count):
        back[2 * i : 2 * i + 2, i] = _OUTPUT
    return into, back
