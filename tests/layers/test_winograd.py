"""Products give what a convolution gives, gradients too, and are used where they pay."""

import pytest
import torch
from torch.nn import functional as F

from mmfm.layers.winograd import Conv3x3, conv3x3


@pytest.mark.parametrize(("height", "width"), [(2, 2), (4, 4), (8, 8), (4, 6)])
def test_products_are_the_convolution(height, width):
    torch.manual_seed(0)
    x = torch.randn(3, 5, height, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, dtype=torch.float64, requires_grad=True)
    ours, theirs = conv3x3(x, weight, bias), F.conv2d(x, weight, bias, padding=1)
    assert torch.allclose(ours, theirs, atol=1e-12)
    ahead = torch.randn_like(theirs)
    for one, other in zip(
        torch.autograd.grad(ours, (x, weight, bias), ahead),
        torch.autograd.grad(theirs, (x, weight, bias), ahead),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-12)


def test_in_float32_it_is_the_library_s_convolution_bit_for_bit():
    layer, x = Conv3x3(4, 6), torch.randn(2, 4, 4, 4)
    assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1))


@pytest.mark.parametrize("side", [4, 5, 16])
def test_under_autocast_it_is_the_convolution_up_to_rounding(side):
    layer, x = Conv3x3(16, 6), torch.randn(2, 16, side, side)
    with torch.autocast("cpu", torch.bfloat16):
        made = layer(x)
    wanted = layer(x)
    assert made.dtype == torch.bfloat16
    assert (made - wanted).square().mean() < 1e-3 * wanted.square().mean()
