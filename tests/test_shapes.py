"""The value that crosses between backbone and heads checks itself."""

import pytest
import torch

from mmfm.shapes import Embeddings, expect_shape


@pytest.fixture
def embeddings():
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    return Embeddings(torch.arange(6.0).reshape(3, 2), torch.arange(24.0).reshape(3, 2, 4), mask)


def test_rows_can_be_taken_in_any_order(embeddings):
    took = embeddings.take([2, 0, 2])
    assert len(took) == 3
    for name in ("pooled", "tokens", "mask"):
        assert torch.equal(getattr(took, name), getattr(embeddings, name)[[2, 0, 2]])
    bare = Embeddings(embeddings.pooled).take([1])
    assert (len(bare), bare.tokens, bare.mask) == (1, None, None)


def test_moving_keeps_what_is_absent(embeddings):
    moved = Embeddings(embeddings.pooled).to("cpu")
    assert torch.equal(moved.pooled, embeddings.pooled)
    assert moved.tokens is None
    assert torch.equal(embeddings.to("cpu").mask, embeddings.mask)


def test_a_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"x has shape \(2, 3\), wanted \(B, 4\)"):
        expect_shape(torch.zeros(2, 3), "B 4", "x")
    with pytest.raises(ValueError, match="tokens"):
        Embeddings(torch.zeros(2, 3), torch.zeros(2, 3))
    expect_shape(torch.zeros(2, 4), "B 4", "x")
