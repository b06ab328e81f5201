"""Attention: masks hide, order does not matter where none is told."""

import torch

from mmfm.layers.attention import CrossAttention, SelfAttention


def test_a_masked_memory_entry_changes_nothing():
    torch.manual_seed(0)
    attention = CrossAttention(16, 12, num_heads=4)
    x, memory = torch.randn(3, 5, 16), torch.randn(3, 6, 12)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[:, 4:] = False
    masked = attention(x, memory, mask)
    changed = memory.clone()
    changed[:, 4:] = 100.0
    assert torch.equal(attention(x, changed, mask), masked)
    assert torch.allclose(attention(x, memory[:, :4]), masked, atol=1e-6)
    assert not torch.allclose(attention(x, changed), masked)


def test_all_open_equals_no_mask():
    torch.manual_seed(0)
    attention = CrossAttention(16, 16, num_heads=2)
    x, memory = torch.randn(2, 3, 16), torch.randn(2, 4, 16)
    everything = torch.ones(2, 4, dtype=torch.bool)
    assert torch.allclose(attention(x, memory, everything), attention(x, memory), atol=1e-6)


def test_the_order_of_the_memory_does_not_matter():
    torch.manual_seed(0)
    attention = CrossAttention(16, 16, num_heads=2)
    x, memory = torch.randn(2, 3, 16), torch.randn(2, 4, 16)
    assert torch.allclose(attention(x, memory.flip(1)), attention(x, memory), atol=1e-6)


def test_self_attention_moves_with_its_input():
    torch.manual_seed(0)
    attention = SelfAttention(16, num_heads=4)
    x = torch.randn(2, 7, 16)
    order = torch.randperm(7)
    assert torch.allclose(attention(x[:, order]), attention(x)[:, order], atol=1e-6)


def test_self_attention_is_softmax_of_products():
    torch.manual_seed(0)
    attention = SelfAttention(8, num_heads=1).double()
    x = torch.randn(1, 4, 8, dtype=torch.float64)
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    wanted = attention.out((q @ k.transpose(1, 2) / 8**0.5).softmax(dim=-1) @ v)
    assert torch.allclose(attention(x), wanted, atol=1e-12)
