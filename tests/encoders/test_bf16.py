"""Packed bfloat16 maps are the plain ones, rounded once less."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmfm.encoders import bf16, lean

THEN = {"nothing": None, "gelu": nn.GELU(), "tanh": nn.GELU("tanh"), "silu": F.silu}


def random(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).bfloat16()


@pytest.fixture(params=[True, False], ids=["packed", "plain"], autouse=True)
def packed(request, monkeypatch):
    if request.param and not bf16.has_packed():
        pytest.skip("this build of torch has no packed product")
    monkeypatch.setattr(bf16, "has_packed", lambda: request.param)
    return request.param


@pytest.mark.parametrize("then", THEN.values(), ids=THEN)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("rows", [1, 13, 640])
def test_a_map_is_the_exact_one_up_to_rounding(rows, bias, then):
    x, weight, shift = random(rows, 96), random(80, 96) / 10, random(80) if bias else None
    exact = F.linear(x.double(), weight.double(), None if shift is None else shift.double())
    exact = exact if then is None else then(exact)
    found = bf16.linear(weight, shift, then=then)(x)
    assert found.dtype == torch.bfloat16 and found.shape == (rows, 80)
    # why: 8 bits of a mantissa, once for the sum and once for what follows
    error = (found.double() - exact).abs()
    assert (error <= 2**-7 * exact.abs() + 2**-8).all()


def test_a_row_does_not_depend_on_the_others():
    x, quick = random(40, 96), bf16.linear(random(80, 96) / 10, random(80), then=nn.GELU())
    alone = torch.cat([quick(row[None]) for row in x])
    assert (quick(x).float() - alone.float()).abs().max() <= 2**-6


def test_where_packing_is_not_to_be_had_it_is_the_dense_map(packed):
    x, weight = random(3, 64), random(64, 64)
    if not packed:
        assert torch.equal(bf16.linear(weight, None)(x), lean.dense(weight, None)(x))
