"""Blocks keep shapes, begin as the identity where they say so, and obey their masks."""

import torch
from torch import nn

from mmfm.layers.blocks import MLP, ConvBlock, MapAttention, TransformerBlock


def shaken(module: nn.Module) -> nn.Module:
    """The module with weights far from their start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return module


def test_fresh_map_blocks_are_the_identity():
    x, condition = torch.randn(2, 32, 4, 4), torch.randn(2, 24)
    assert torch.equal(ConvBlock(32, 24)(x, condition), x)
    context, mask = torch.randn(2, 3, 24), torch.ones(2, 3, dtype=torch.bool)
    assert torch.equal(MapAttention(32, 24, head_width=16)(x, context, mask), x)


def test_a_masked_context_entry_changes_nothing():
    block = shaken(MapAttention(32, 24, head_width=16))
    x, context = torch.randn(2, 32, 4, 4), torch.randn(2, 5, 24)
    mask = torch.tensor([[True, True, True, False, False]] * 2)
    changed = context.clone()
    changed[:, 3:] += 10
    y = block(x, context, mask)
    assert y.shape == x.shape
    assert torch.equal(block(x, changed, mask), y)
    assert not torch.allclose(block(x, changed, torch.ones_like(mask)), y)


def test_the_condition_reaches_a_convolution():
    block = shaken(ConvBlock(32, 24))
    x, condition = torch.randn(2, 32, 4, 4), torch.randn(2, 24)
    y = block(x, condition)
    assert y.shape == x.shape
    assert not torch.allclose(block(x, condition + 1), y)
    assert torch.allclose(block(x[1:], condition[1:]), y[1:], atol=1e-5)  # batch mates apart


def test_blocks_keep_the_shape_of_tokens():
    x = torch.randn(2, 5, 16)
    assert MLP(16)(x).shape == x.shape
    assert MLP(16, ratio=2.0).fc1.out_features == 32
    assert TransformerBlock(16, num_heads=2)(x).shape == x.shape
