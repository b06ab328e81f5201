"""The plain products of short sequences equal torch's fused kernel."""

import torch
from torch.nn import functional as F

from mmfm.layers.attention import attend


def test_plain_products_equal_the_fused_kernel():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, length, 8).bfloat16() for length in (5, 7, 7))
    allowed = torch.rand(2, 1, 1, 7) < 0.7
    allowed[..., 0] = True
    for mask in (None, allowed):
        wanted = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)
        fused = attend(q, k, v, mask)
        plain = attend(q.clone().requires_grad_(), k, v, mask)
        assert plain.requires_grad
        assert (fused.float() - wanted).abs().max() < 0.03
        assert (plain.float() - wanted).abs().max() < 0.03
