"""A batch in parts has the gradient of the batch, and a part repeats its randomness exactly."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmfm.errors import InputError
from mmfm.training.accumulate import Products, backward
from mmfm.training.losses import softmax_loss

COUNT = 12


class Pairs(nn.Module):
    """Two towers with dropout, a head, and a scale that only the pair loss uses."""

    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Sequential(
            nn.Linear(5, 24), nn.Tanh(), nn.Dropout(dropout), nn.Linear(24, 6)
        )
        self.text = nn.Sequential(nn.Linear(4, 6), nn.Dropout(dropout), nn.ReLU(inplace=True))
        self.head = nn.Linear(6, 1)
        self.scale = nn.Parameter(torch.tensor(5.0))


class PairsTask:
    """Contrastive loss with groups of three, plus a mean over samples; `noise` on the images."""

    def __init__(self, dropout=0.0, noise=0.0, own=True):
        self.module = Pairs(dropout).train()
        self.noise, self.own = noise, own
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randn(COUNT, 5, generator=generator)
        self.texts = torch.randn(COUNT, 4, generator=generator)
        self.calls = []  # of encode: rows, whether with a graph, and where both generators stood

    def encode(self, batch, generator):
        states = torch.get_rng_state(), generator.get_state()
        self.calls.append((batch, torch.is_grad_enabled(), *states))
        images = self.images[batch]
        images = images + self.noise * torch.randn(images.shape, generator=generator)
        pair = [self.module.image(images), self.module.text(self.texts[batch])]
        own = self.module.head(pair[0]).square().mean() if self.own else None
        said = {"mean": self.texts[batch].mean(), "what": "pairs"}
        return [*(F.normalize(x, dim=1) for x in pair), batch // 3], own, said

    def pair_loss(self, features):
        return softmax_loss(*features[:2], self.module.scale, features[2])

    def loss(self, batch, generator):
        features, own, said = self.encode(batch, generator)
        loss = self.pair_loss(features)
        return loss if own is None else loss + own, said


class MeanTask:
    """A mean over samples, with no pairs."""

    def __init__(self):
        torch.manual_seed(0)
        self.module = nn.Linear(4, 1)
        self.x = torch.randn(COUNT, 4)

    def loss(self, batch, generator):
        loss = self.module(self.x[batch]).square().mean()
        return loss, {"twice": 2 * loss.item()}


def seeds(part):
    return torch.Generator().manual_seed(100 + part)


def run(task, parts, rows=COUNT):
    """Loss, gradients by name, and what was logged."""
    task.module.zero_grad()
    loss, said = backward(task, torch.arange(rows), parts, seeds)
    assert not loss.requires_grad and loss.shape == ()
    named = task.module.named_parameters()
    return loss, {name: p.grad.clone() for name, p in named if p.grad is not None}, said


def agree(ours, theirs):
    torch.testing.assert_close(ours[0], theirs[0])
    assert ours[1].keys() == theirs[1].keys()
    for name, gradient in theirs[1].items():
        torch.testing.assert_close(ours[1][name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("parts", [2, 4, 12])
def test_pairs_have_the_same_gradient_in_any_number_of_parts(parts, own):
    whole = run(PairsTask(own=own), 1)
    agree(run(PairsTask(own=own), parts), whole)
    assert ("head.weight" in whole[1]) == own and "scale" in whole[1]


@pytest.mark.parametrize("parts", [2, 5])
def test_unequal_parts_count_by_their_length(parts):
    for make in (PairsTask, MeanTask):
        whole, cut = run(make(), 1, rows=11), run(make(), parts, rows=11)
        agree(cut, whole)
        for name, value in whole[2].items():
            assert cut[2][name] == (value if isinstance(value, str) else pytest.approx(value))


@pytest.mark.parametrize("parts", [2, 3, 12])
def test_a_mean_over_samples_is_the_mean_of_its_parts(parts):
    agree(run(MeanTask(), parts), run(MeanTask(), 1))


@pytest.mark.parametrize("parts", [2, 3])
def test_dropout_and_noise_are_the_same_in_both_encodings(parts):
    """Equal to one graph that holds all parts, each encoded once from where its seed stood."""
    task = PairsTask(dropout=0.5, noise=0.3)
    ours = run(task, parts)
    calls, task.calls = task.calls, []
    first = {rows[0].item(): (rows, *states) for rows, _, *states in reversed(calls)}
    encoded, own = [], 0.0
    for start in sorted(first):
        rows, torchs, parts_own = first[start]
        torch.set_rng_state(torchs)
        generator = torch.Generator()
        generator.set_state(parts_own)
        features, one, _ = task.encode(rows, generator)
        encoded.append(features)
        own = own + one / parts
    task.module.zero_grad()
    loss = task.pair_loss([torch.cat(x) for x in zip(*encoded, strict=True)]) + own
    loss.backward()
    agree(ours, (loss.detach(), {n: p.grad for n, p in task.module.named_parameters()}))
    for rows, _, *states in calls:
        assert all(map(torch.equal, states, first[rows[0].item()][1:]))
    assert not torch.equal(first[0][1], first[COUNT // parts][1])  # parts differ from each other


def test_all_parts_but_the_last_are_encoded_twice_and_one_graph_lives_at_a_time():
    task = PairsTask()
    run(task, 4)
    assert [(rows[0].item(), graph) for rows, graph, *_ in task.calls] == [
        (0, False), (3, False), (6, False), (9, True), (0, True), (3, True), (6, True)
    ]  # fmt: skip


def test_one_part_is_the_plain_step_to_the_bit():
    for make in (lambda: PairsTask(noise=0.3), MeanTask):
        ours, task = run(make(), 1), make()
        loss, _ = task.loss(torch.arange(COUNT), seeds(0))
        loss.backward()
        assert torch.equal(ours[0], loss.detach())
        for name, p in task.module.named_parameters():
            assert torch.equal(ours[1][name], p.grad)


def test_a_frozen_tower_gets_no_gradient_and_changes_no_other():
    whole, task = run(PairsTask(), 1), PairsTask()
    task.module.image.requires_grad_(False)
    cut = run(task, 3)
    left = {name: g for name, g in whole[1].items() if not name.startswith("image")}
    agree(cut, (whole[0], left))


def test_gradients_are_added_to_those_that_are_there():
    task = PairsTask()
    _, once, _ = run(task, 3)
    backward(task, torch.arange(COUNT), 3, seeds)
    for name, p in task.module.named_parameters():
        torch.testing.assert_close(p.grad, 2 * once[name], rtol=1e-5, atol=1e-6)


def test_parts_inside_autocast_reach_every_weight():
    """Weights that were cast where no graph was made would lead to no gradient."""
    with torch.autocast("cpu", torch.bfloat16):
        cut = run(PairsTask(), 3)
    whole = run(PairsTask(), 1)
    assert cut[1].keys() == whole[1].keys()
    for name, gradient in whole[1].items():
        torch.testing.assert_close(cut[1][name], gradient, rtol=0.1, atol=0.03)


@pytest.mark.parametrize("parts", [0, 13])
def test_more_parts_than_samples_are_refused(parts):
    with pytest.raises(InputError, match=f"12 .* {parts} parts"):
        backward(MeanTask(), torch.arange(COUNT), parts, seeds)


def test_dear_products_are_given_back_and_others_computed_anew():
    """Seen by changing the weights in between; what was given may be changed in place."""
    torch.manual_seed(0)
    narrow, wide, x = nn.Linear(24, 6), nn.Linear(6, 24), torch.randn(5, 24)
    products = Products()
    with torch.no_grad(), products:
        y = narrow(x)
        first, first_wide = y.clone(), wide(y)
        y.zero_()
    with torch.no_grad():
        narrow.weight.mul_(2)
        wide.weight.mul_(2)
    with products:
        again = narrow(x)
        assert torch.equal(again, first)
        assert not torch.equal(wide(again), first_wide)
    again.sum().backward()
    torch.testing.assert_close(narrow.weight.grad, x.sum(0).expand(6, 24))
    assert not torch.equal(narrow(x), first)  # outside it, nothing is given
