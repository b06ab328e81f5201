"""Contrastive losses: equal to open_clip's, equal to a plain loop, blind to twins."""

import math

import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch.nn import functional as F

from mmfm.training.losses import sigmoid_loss, softmax_loss

SCALE, BIAS = torch.tensor(12.0), torch.tensor(-3.0)
GROUPS = torch.tensor([0, 1, 0, 2, 1])


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(2, 5, 8, generator=generator)
    return F.normalize(images, dim=1), F.normalize(texts, dim=1)


def test_softmax_is_open_clips_when_all_are_distinct(pair):
    ours = softmax_loss(*pair, SCALE, torch.arange(5))
    assert ours.item() == pytest.approx(ClipLoss()(*pair, SCALE).item(), rel=1e-6)


def test_sigmoid_is_open_clips_when_all_are_distinct(pair):
    ours = sigmoid_loss(*pair, SCALE, BIAS, torch.arange(5))
    assert ours.item() == pytest.approx(SigLipLoss()(*pair, SCALE, BIAS).item(), rel=1e-6)


def test_softmax_equals_a_plain_loop(pair):
    logits = (SCALE * pair[0] @ pair[1].T).tolist()
    total = 0.0
    for i in range(5):
        rivals = [j for j in range(5) if j == i or GROUPS[j] != GROUPS[i]]
        total += math.log(sum(math.exp(logits[i][j]) for j in rivals)) - logits[i][i]
        total += math.log(sum(math.exp(logits[j][i]) for j in rivals)) - logits[i][i]
    assert softmax_loss(*pair, SCALE, GROUPS).item() == pytest.approx(total / 10, rel=1e-5)


def test_sigmoid_equals_a_plain_loop(pair):
    logits = (SCALE * pair[0] @ pair[1].T + BIAS).tolist()
    total = 0.0
    for i in range(5):
        for j in range(5):
            sign = 1 if GROUPS[i] == GROUPS[j] else -1
            total += math.log(1 + math.exp(-sign * logits[i][j]))
    assert sigmoid_loss(*pair, SCALE, BIAS, GROUPS).item() == pytest.approx(total / 5, rel=1e-5)


def test_a_twin_is_not_pushed_away(pair):
    """Picture 0 and text 2 share a name: the loss does not feel how near they are."""
    images, texts = (x.clone().requires_grad_() for x in pair)
    softmax_loss(images[:3], texts[:3], SCALE, torch.tensor([0, 1, 0])).backward()
    apart = images.grad[0].clone()
    images.grad = None
    with torch.no_grad():
        texts[2] = F.normalize(torch.randn(8, generator=torch.Generator().manual_seed(5)), dim=0)
    softmax_loss(images[:3], texts[:3], SCALE, torch.tensor([0, 1, 0])).backward()
    assert torch.allclose(images.grad[0], apart, atol=1e-6)


def test_perfect_pairs_lose_next_to_nothing():
    vectors = torch.eye(6)
    groups = torch.arange(6)
    assert softmax_loss(vectors, vectors, torch.tensor(100.0), groups) < 1e-6
    assert sigmoid_loss(vectors, vectors, torch.tensor(100.0), torch.tensor(-50.0), groups) < 1e-6
    assert softmax_loss(vectors, vectors.flip(0), torch.tensor(100.0), groups) > 10


def test_a_batch_of_one_group_has_no_rivals(pair):
    loss = softmax_loss(*pair, SCALE, torch.zeros(5, dtype=torch.int64))
    assert loss.item() == pytest.approx(0, abs=1e-6)
