"""Schedules, groups and freezing as data, clipping, and the average."""

import itertools
import math

import pytest
import torch
from torch import nn

from mmfm.errors import InputError
from mmfm.training.loop_config import LoopConfig
from mmfm.training.optim import (
    Average,
    build_optimizer,
    clip_gradients,
    freeze,
    learning_rate,
    parameter_groups,
    rate_factors,
    set_rate,
)
from tests.training.small_tasks import Blocks


def config(**changes):
    settings = {"num_steps": 100, "learning_rate": 1.0, "warmup_steps": 10, "final_rate": 0.1}
    return LoopConfig(**{**settings, **changes})


def rates(**changes):
    c = config(**changes)
    return [learning_rate(step, c) for step in range(c.num_steps + 1)]


def test_the_cosine_warms_up_then_falls_to_its_end():
    found = rates()
    assert found[0] == pytest.approx(0.1)
    assert max(found) == found[10] == found[9] == pytest.approx(1.0)
    assert all(a >= b for a, b in itertools.pairwise(found[10:]))
    assert found[-1] == pytest.approx(0.1)
    assert found[55] == pytest.approx(0.55)


def test_constant_stays():
    assert set(rates(schedule="constant")[9:]) == {1.0}


def test_wsd_stays_then_falls_in_the_last_fifth_and_can_be_made_longer():
    short, long = rates(schedule="wsd"), rates(schedule="wsd", num_steps=200)
    assert set(short[9:81]) == {1.0}
    assert short[81] < 1.0
    assert short[-1] == pytest.approx(0.1)
    assert short[85] == pytest.approx(0.1 + 0.9 * (1 - math.sqrt(0.25)))
    assert short[:81] == long[:81]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schedule": "linear"}, "schedule is 'linear', wanted one of cosine, constant, wsd"),
        ({"precision": "fp16"}, "fp32, bf16"),
        ({"accumulate": 0}, "accumulate is 0, wanted at least 1"),
        ({"ema_decay": 1.0}, "below 1"),
        ({"clip_norm": 0.0}, "more than 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change, told):
    with pytest.raises(InputError, match=told):
        config(**change)


def test_early_evaluations_double_until_the_regular_ones():
    c = config(num_steps=1100, evaluate_every=500)
    assert [s for s in range(1101) if c.evaluates(s)] == [64, 128, 256, 500, 1000, 1100]
    assert [s for s in range(31) if config(num_steps=30, evaluate_every=10).evaluates(s)] == [
        10, 20, 30
    ]  # fmt: skip


def test_matrices_decay_and_vectors_do_not():
    module = Blocks()
    groups = parameter_groups(module, 0.05)
    by_decay = {group["weight_decay"]: group["params"] for group in groups}
    assert by_decay.keys() == {0.05, 0.0}
    assert {p.dim() for p in by_decay[0.05]} == {2}
    assert {p.dim() for p in by_decay[0.0]} == {0, 1}
    assert sum(map(len, by_decay.values())) == len(list(module.parameters()))


PARTS = (("blocks.0.*norm", 0.5), (r"^blocks\.", 0), ("bias$", 2.0))


def test_the_first_match_decides_and_the_rest_is_one():
    factors = rate_factors(Blocks(), PARTS)
    assert factors["blocks.0.norm.bias"] == 0.5
    assert factors["blocks.0.up.bias"] == factors["blocks.1.norm.weight"] == 0
    assert factors["outer.bias"] == 2
    assert factors["outer.weight"] == factors["scale"] == 1


def test_factors_are_rates_and_zero_is_frozen_bit_for_bit():
    torch.manual_seed(0)
    module = Blocks()
    freeze(module, PARTS)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    optimizer = build_optimizer(module, config(parts=PARTS, weight_decay=0.0))
    set_rate(optimizer, 0.01)
    module.predict(torch.randn(5, 4)).square().mean().backward()
    optimizer.step()
    moved = {n: (v - before[n]).abs().max().item() for n, v in module.state_dict().items()}
    assert moved["blocks.1.up.weight"] == moved["blocks.0.down.bias"] == 0
    assert moved["outer.weight"] == pytest.approx(0.01, rel=1e-3)  # Adam's first step is its rate
    assert moved["outer.bias"] == pytest.approx(0.02, rel=1e-3)
    assert moved["blocks.0.norm.weight"] == pytest.approx(0.005, rel=1e-3)
    assert not any(p.requires_grad for p in module.blocks[1].parameters())


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ((("block_.0", 0.1),), r"'block_.0' decides no parameter; names look like "),
        (((".", 1.0), ("norm", 0.0)), "'norm' decides no parameter"),
        ((("(", 1.0),), "not a regular expression"),
        (((".", 0.0),), "every parameter is frozen"),
    ],
)
def test_typos_in_parts_are_refused(parts, told):
    with pytest.raises(InputError, match=told):
        freeze(Blocks(), parts)


def test_clipping_is_torchs():
    torch.manual_seed(0)
    one, two = Blocks(), Blocks()
    two.load_state_dict(one.state_dict())
    for module in (one, two):
        (100 * module.eval().predict(torch.ones(5, 4))).square().mean().backward()
    norm = clip_gradients(one.parameters(), 0.5)
    assert torch.equal(norm, nn.utils.clip_grad_norm_(two.parameters(), 0.5))
    assert all(
        p.grad is q.grad is None or torch.equal(p.grad, q.grad)
        for p, q in zip(one.parameters(), two.parameters())
    )
    clipped = clip_gradients(one.parameters(), math.inf)  # infinity only measures
    assert clipped == pytest.approx(0.5, rel=1e-5)


def test_the_average_is_the_formula_and_shares_what_is_frozen():
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    module.bias.requires_grad_(False)
    average = Average(module, 0.9)
    wanted = None
    for step in range(30):
        with torch.no_grad():
            module.weight.add_(torch.randn(2, 3))
        decay = min(0.9, (1 + step) / (10 + step))
        weight = module.weight.detach().double()
        wanted = weight.clone() if wanted is None else decay * wanted + (1 - decay) * weight
        average.update(module, step)
    assert torch.allclose(average.module.weight.double(), wanted, atol=1e-5)
    assert average.module.bias.data_ptr() == module.bias.data_ptr()
    assert average.module.weight.data_ptr() != module.weight.data_ptr()


def test_without_decay_there_is_no_copy():
    module = nn.Linear(3, 2)
    average = Average(module, 0.0)
    average.update(module, 0)
    assert average.module is module
