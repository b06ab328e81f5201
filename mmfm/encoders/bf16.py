"""Linear maps in bfloat16 whose weights are laid out once for the processor's matrix units.

torch's own bfloat16 product lays the weights out anew at every call and writes what comes out
before an activation reads it again. oneDNN's operator, which torch.compile uses too, takes weights
in its own layout and computes the activation on the way out.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfm.encoders.lean import Map, dense


def linear(
    weight: Tensor, bias: Tensor | None, floor: float | None = None, then: Map | None = None
) -> Map:
    """The map of a bfloat16 weight, see `lean.MakeMap`; dense where oneDNN's cannot be had."""
    if weight.device.type != "cpu" or not has_packed():
        return dense(weight, bias, floor, then)
    compute, packed = torch.ops.mkldnn._linear_pointwise.default, _pack(weight)
    if isinstance(then, nn.GELU):
        kind = then.approximate
        return lambda rows: compute(rows, packed, bias, "gelu", [], kind)
    if then is None:
        return lambda rows: compute(rows, packed, bias, "none", [], "")
    return lambda rows: then(compute(rows, packed, bias, "none", [], ""))


@cache
def has_packed() -> bool:
    """Whether this build of torch has the operator, and it is right on this processor."""
    weight = torch.arange(64 * 64).remainder_(13).sub_(6).view(64, 64).bfloat16() / 64
    rows, bias = weight[:5] * 3, weight[0]
    try:
        out = torch.ops.mkldnn._linear_pointwise(rows, _pack(weight), bias, "gelu", [], "none")
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    wanted = F.gelu(F.linear(rows.float(), weight.float(), bias.float()))
    return torch.allclose(out.float(), wanted, atol=0.02)


def _pack(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
