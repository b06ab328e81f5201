"""Contrastive losses: equal to open_clip's and to the plain formula, blind to twins."""

import math

import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch.nn import functional as F

from mmfm.errors import InputError
from mmfm.training import losses
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


def inputs(count, scale=12.0, bias=-3.0, dtype=torch.float32, width=8, seed=0):
    """Leaves: unit vectors, texts near their images, scale and bias."""
    generator = torch.Generator().manual_seed(seed)
    images, noise = torch.randn(2, count, width, generator=generator, dtype=torch.float64)
    texts = images + noise
    numbers = [torch.tensor(x, dtype=torch.float64) for x in (scale, bias)]
    leaves = [F.normalize(images, dim=1), F.normalize(texts, dim=1), *numbers]
    return [x.to(dtype).requires_grad_() for x in leaves]


def plain_softmax(images, texts, scale, groups):
    logits = scale * images @ texts.T
    twins = (groups[:, None] == groups) & ~torch.eye(len(groups), dtype=torch.bool)
    logits = logits.masked_fill(twins, float("-inf"))
    target = torch.arange(len(groups))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def plain_sigmoid(images, texts, scale, bias, groups):
    sign = 2.0 * (groups[:, None] == groups) - 1
    return -F.logsigmoid(sign * (scale * images @ texts.T + bias)).sum() / len(groups)


def with_gradients(function, leaves, *rest):
    loss = function(*leaves, *rest)
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def agree(ours, theirs, tolerance=2e-6):
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)


@pytest.fixture(params=[1, 3, 4, 64], ids=lambda side: f"tiles of {side}")
def tiles(request, monkeypatch):
    monkeypatch.setitem(losses.TILE, "cpu", request.param)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 13])
def test_gradients_are_open_clips_at_any_size_of_batch_and_tile(tiles, count):
    leaves = inputs(count)
    agree(with_gradients(softmax_loss, leaves[:3]), with_gradients(ClipLoss(), leaves[:3]))
    agree(with_gradients(sigmoid_loss, leaves), with_gradients(SigLipLoss(), leaves))


@pytest.mark.parametrize("ids", [range(7), (0, 1, 0, 2, 1, 0, 3), (5,) * 7])
def test_gradients_with_groups_are_those_of_the_plain_formula(tiles, ids):
    leaves, groups = inputs(7, dtype=torch.float64), torch.tensor(list(ids))
    ours = with_gradients(softmax_loss, leaves[:3], groups)
    agree(ours, with_gradients(plain_softmax, leaves[:3], groups), 1e-12)
    ours = with_gradients(sigmoid_loss, leaves, groups)
    agree(ours, with_gradients(plain_sigmoid, leaves, groups), 1e-12)


def test_gradients_are_those_of_finite_differences(monkeypatch):
    monkeypatch.setitem(losses.TILE, "cpu", 3)
    leaves, groups = inputs(5, dtype=torch.float64), GROUPS
    assert torch.autograd.gradcheck(softmax_loss, (*leaves[:3], groups))
    assert torch.autograd.gradcheck(sigmoid_loss, (*leaves, groups))


def test_real_tiles_of_unequal_size_agree_with_open_clip():
    leaves = inputs(losses.TILE["cpu"] + 100, scale=50.0, bias=-10.0, width=32)
    agree(with_gradients(softmax_loss, leaves[:3]), with_gradients(ClipLoss(), leaves[:3]), 2e-5)
    agree(with_gradients(sigmoid_loss, leaves), with_gradients(SigLipLoss(), leaves), 2e-5)


@pytest.mark.parametrize("length", [1.0, 3.0])
def test_no_logit_is_too_large(tiles, length):
    """Scale 100, opposed vectors, lengths that nobody promised: finite, and float64's value."""
    exact = inputs(6, scale=100.0, bias=-50.0, dtype=torch.float64)
    with torch.no_grad():
        exact[1][2] = -exact[0][2]
        exact[0][4:] *= length
        exact[1][:3] *= length
    leaves = [x.detach().float().requires_grad_() for x in exact]
    for function, count in ((softmax_loss, 3), (sigmoid_loss, 4)):
        ours = with_gradients(function, leaves[:count])
        theirs = [x.float() for x in with_gradients(function, exact[:count])]
        assert all(x.isfinite().all() for x in ours)
        agree(ours, theirs, 3e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_single(dtype):
    """The loss is float32's of the same rounded vectors; only the gradients are rounded again."""
    half = [x.detach().to(dtype).requires_grad_() for x in inputs(40)[:2]]
    single = [x.detach().float().requires_grad_() for x in half]
    numbers = inputs(1)[2:]
    for function, rest in ((softmax_loss, numbers[:1]), (sigmoid_loss, numbers)):
        ours = with_gradients(function, [*half, *rest])
        theirs = with_gradients(function, [*single, *rest])
        assert torch.equal(ours[0], theirs[0])
        agree(ours[1:3], [x.to(dtype) for x in theirs[1:3]], 0)


def test_autocast_does_not_touch_the_sums():
    leaves = inputs(9)
    for function, count in ((softmax_loss, 3), (sigmoid_loss, 4)):
        outside = with_gradients(function, leaves[:count])
        with torch.autocast("cpu", torch.bfloat16):
            inside = with_gradients(function, leaves[:count])
        assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))


def test_a_frozen_side_gets_no_gradient_and_changes_no_other(tiles):
    full = inputs(7)
    for function, count in ((softmax_loss, 3), (sigmoid_loss, 4)):
        wanted = with_gradients(function, full[:count])[1:]
        for learning in range(count):
            leaves = [x.detach().requires_grad_(i == learning) for i, x in enumerate(full[:count])]
            function(*leaves).backward()
            assert [x.grad is not None for x in leaves] == [i == learning for i in range(count)]
            torch.testing.assert_close(leaves[learning].grad, wanted[learning])


def test_one_graph_may_use_a_loss_twice():
    leaves = inputs(7)
    for function, count in ((softmax_loss, 3), (sigmoid_loss, 4)):
        once = with_gradients(function, leaves[:count])
        thrice = with_gradients(lambda *x, f=function: f(*x) + 2 * f(*x), leaves[:count])
        agree([x / 3 for x in thrice], once)
        loss = function(*leaves[:count])
        first = torch.autograd.grad(loss, leaves[:count], retain_graph=True)
        assert all(map(torch.equal, first, torch.autograd.grad(loss, leaves[:count])))


def test_no_graph_is_made_where_none_is_wanted():
    leaves = inputs(5)
    with torch.no_grad():
        assert not softmax_loss(*leaves[:3]).requires_grad
        assert not sigmoid_loss(*leaves).requires_grad
        agree([sigmoid_loss(*leaves)], [SigLipLoss()(*leaves)])


@pytest.mark.parametrize(
    ("images", "texts", "groups"),
    [((5, 8), (4, 8), None), ((5, 8), (5, 8), 4), ((0, 8), (0, 8), 0)],
)
def test_sizes_that_do_not_fit_are_refused(images, texts, groups):
    ids = None if groups is None else torch.zeros(groups)
    with pytest.raises(InputError, match="one"):
        softmax_loss(torch.zeros(images), torch.zeros(texts), SCALE, ids)
    with pytest.raises(InputError, match="one"):
        sigmoid_loss(torch.zeros(images), torch.zeros(texts), SCALE, BIAS, ids)
