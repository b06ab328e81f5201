"""Linear maps in 8-bit integers: weights per output, activations per row.

A row (one token) has a scale of its own, measured from itself alone, so that a vector never
depends on its batch mates: vector-wise quantisation in the words of LLM.int8() (2208.07339).
Products are exact integers; what is lost is lost in rounding the inputs. Two operators of torch
compute them: oneDNN's, and for few rows FBGEMM's, whose weights are packed once, not at every call.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from mmfm.encoders import lean
from mmfm.encoders.lean import Map

Product = Callable[[Tensor], Tensor]  # levels (M, K), floats in 0..255 -> sums (M, N)
Kernel = Callable[[Tensor, Tensor, Tensor], Product]  # weights int8 (N, K), scale (N,), shift (N,)

FEW_ROWS = 48  # up to so many, FBGEMM is the faster (it packs activations, oneDNN the weights)
MIN_WIDTH = 64  # a map of fewer inputs or outputs gains nothing
MIDDLE = 128.0  # the level of zero, where values lie on both sides of it
MAGIC = 1.5 * 2**23  # float32 + MAGIC has the rounded integer in its low bits


class Int8Map:
    """The map of a float32 weight (N, K) and bias on rows, in int8; see `lean.MakeMap`.

    With a floor (an activation has one), all 256 levels lie above it: one bit more. Weights are
    packed at the first call, for the operator that it needs.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, floor: float | None = None,
        then: Map | None = None,
    ) -> None:  # fmt: skip
        self.weight, self.bias, self.floor, self.then = weight, bias, floor, then
        self._products: dict[Kernel, tuple[Product, Tensor]] = {}

    def __call__(self, rows: Tensor) -> Tensor:
        kernel = _fbgemm if len(rows) <= FEW_ROWS and _has(_fbgemm) else _onednn
        if kernel not in self._products:
            self._products[kernel] = self._pack(kernel)
        product, bias = self._products[kernel]
        levels, step = _levels(rows, self.floor)
        sums = product(levels)
        sums = torch.addcmul(bias, sums, step, out=sums)
        return sums if self.then is None else self.then(sums)

    def _pack(self, kernel: Kernel) -> tuple[Product, Tensor]:
        scale, quantised = _quantise(self.weight)
        totals = scale * quantised.sum(dim=1)  # what one more in every input adds to each output
        zero = torch.zeros_like(scale)
        bias = zero if self.bias is None else self.bias.detach().float()
        if self.floor is None:
            return kernel(quantised, scale, -MIDDLE * totals), bias
        return kernel(quantised, scale, zero), bias + self.floor * totals


def linear(
    weight: Tensor, bias: Tensor | None, floor: float | None = None, then: Map | None = None
) -> Map:
    """An `Int8Map`; maps of fewer than 64 inputs or outputs gain nothing and stay as they are.

    Raises RuntimeError where `why_not()` has something to say.
    """
    if reason := why_not():
        raise RuntimeError(reason)
    if min(weight.shape) < MIN_WIDTH:
        return lean.dense(weight, bias, floor, then)
    return Int8Map(weight, bias, floor, then)


@cache
def why_not() -> str | None:
    """Why int8 maps cannot be had here, in words; None when they can and are exact."""
    return None if _has(_onednn) else "this build of torch has no exact int8 product for this CPU"


def swap_linears(module: nn.Module) -> None:
    """Put int8 maps in place of the `nn.Linear`s of a module.

    Maps whose weights are read from outside (inside `nn.MultiheadAttention`) stay as they are.
    """
    for parent in list(module.modules()):
        if isinstance(parent, nn.MultiheadAttention):
            continue
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, Int8Linear(child))


class Int8Linear(nn.Module):
    """`nn.Linear` in int8 for inference; its weight stays at hand for those who read it."""

    def __init__(self, original: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = original.in_features, original.out_features
        self.weight, self.bias = original.weight, original.bias
        self._map = linear(original.weight, original.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self._map(x.reshape(-1, self.in_features)).reshape(*x.shape[:-1], -1)


def _levels(rows: Tensor, floor: float | None) -> tuple[Tensor, Tensor]:
    """Rows (M, K) -> numbers in 0..255, not rounded, that stand for them; steps of rows (M, 1).

    value = step * (level - MIDDLE), or with a floor: floor + step * level.
    """
    highest = rows.amax(dim=1, keepdim=True)
    if floor is None:
        span = torch.maximum(highest, rows.amin(dim=1, keepdim=True).neg_())
        step = span.clamp_(min=1e-30).div_(127)
        inverse = step.reciprocal()
        offset = torch.full_like(inverse, MIDDLE)
    else:
        step = highest.sub_(floor).clamp_(min=1e-30).div_(255)
        inverse = step.reciprocal()
        offset = inverse * -floor
    return torch.addcmul(offset, rows, inverse), step


def _quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight (N, K) -> scale (N,), int8 (N, K), such that no processor's sums overflow.

    Processors without VNNI add the products of two neighbours in 16 bits, saturating: 255 times
    two weights must fit, so two neighbours of one sign may not exceed 128 together.
    """
    weight = weight.detach().float()
    span = weight.abs().amax(dim=1)
    if saturates():
        even = nn.functional.pad(weight, (0, weight.shape[1] % 2)).unflatten(1, (-1, 2))
        above, below = even.clamp(min=0).sum(dim=2), even.clamp(max=0).sum(dim=2).neg_()
        span = torch.maximum(span, torch.maximum(above, below).amax(dim=1))
    scale = span.clamp(min=1e-30) / 127
    return scale, (weight / scale[:, None]).round_().to(torch.int8)


def _onednn(quantised: Tensor, scale: Tensor, shift: Tensor) -> Product:
    """Sums by oneDNN: scale * (levels @ quantised.T) + shift."""
    packed = torch.ops.onednn.qlinear_prepack(quantised, None)
    zeros = torch.zeros(len(scale), dtype=torch.int64)
    compute = torch.ops.onednn.qlinear_pointwise.default

    def product(levels: Tensor) -> Tensor:
        bits = levels.add_(MAGIC).view(torch.int32).to(torch.uint8)
        return compute(
            bits, 1.0, 0, packed, scale, zeros, shift, 1.0, 0, torch.float32, "none", [], ""
        )

    return product


def _fbgemm(quantised: Tensor, scale: Tensor, shift: Tensor) -> Product:
    """The same sums by FBGEMM, which rounds the levels itself as it packs them."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch 2.15 announces the end of quantised tensors
            zeros = torch.zeros(len(scale), dtype=torch.int64)
            weight = torch._make_per_channel_quantized_tensor(quantised, scale.double(), zeros, 0)
            packed = torch.ops.quantized.linear_prepack(weight, shift)
    finally:
        torch.backends.quantized.engine = before
    compute = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default
    return lambda levels: compute(levels, 1.0, 0, packed)


@cache
def saturates() -> bool:
    """Whether this processor's int8 products are wrong at the ends of the range (no VNNI)."""
    return not _is_exact(_onednn, 127)


@cache
def _has(kernel: Kernel) -> bool:
    return _is_exact(kernel, 64)  # what `_quantise` keeps to where two neighbours must fit


def _is_exact(kernel: Kernel, limit: int) -> bool:
    """Whether a kernel exists and gives the right integers for weights up to the limit."""
    columns, rows = 64, 5
    weight = torch.arange(32 * columns).mul_(37).remainder_(2 * limit + 1).sub_(limit)
    weight = weight.to(torch.int8).view(32, columns)
    weight[0], weight[1] = limit, -limit
    levels = torch.arange(rows * columns).mul_(91).remainder_(256).view(rows, columns)
    levels[0] = 255
    wanted = levels @ weight.long().T
    try:
        product = kernel(weight, torch.ones(32), torch.zeros(32))
        return torch.equal(product(levels.float()).round().long(), wanted)
    except (RuntimeError, AttributeError, NotImplementedError):  # no such operator, or not here
        return False
