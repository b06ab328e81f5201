"""The sampler: exact where Euler is exact, and one picture per seed."""

import itertools

import pytest
import torch

from mmfm.decoder.flow import velocity
from mmfm.decoder.sampler import SAMPLERS, noise, noise_levels, picture_seed, sample

SHAPE = (3, 4, 4)


def test_noise_of_a_seed_does_not_depend_on_the_others():
    rows = noise([5, 6, 7], SHAPE)
    assert rows.shape == (3, *SHAPE)
    assert torch.equal(noise([6], SHAPE)[0], rows[1])
    assert not torch.equal(rows[0], rows[1])


def test_seeds_of_pictures_all_differ():
    seeds = {picture_seed(s, i, k) for s in range(5) for i in range(5) for k in range(5)}
    assert len(seeds) == 125
    assert picture_seed(3, 1) == picture_seed(3, 1, 0)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("num_steps", [1, 2, 5, 20])
@pytest.mark.parametrize("shift", [1.0, 1.7])
def test_a_constant_prediction_is_reached_exactly(name, num_steps, shift):
    target = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(9))
    levels = noise_levels(num_steps, shift)
    made = sample(lambda x, t: target, noise([0, 1], SHAPE), levels, SAMPLERS[name])
    assert torch.allclose(made, target, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("num_steps", [1, 4, 16])
def test_straight_paths_are_followed_exactly(name, num_steps):
    """Data that are noise plus one: every path is straight, so few steps are enough."""
    x_0 = noise([0, 1], SHAPE)

    def predict(x, t):  # x_t = x_0 + t, so x_1 = x_t + (1 - t)
        return x + (1 - t)[:, None, None, None]

    made = sample(predict, x_0, noise_levels(num_steps, 1.0), SAMPLERS[name])
    assert torch.allclose(made, x_0 + 1, atol=1e-5)


def test_euler_is_exact_on_a_linear_field_in_float64():
    """dx/dt = a with data x_0 + a: one step or many, the end is the same to the last digits."""
    x_0 = noise([0, 1], SHAPE).double()
    a = torch.linspace(-2, 2, x_0.numel(), dtype=torch.float64).view_as(x_0)

    def predict(x, t):
        return x + (1 - t.double())[:, None, None, None] * a

    for num_steps in (1, 3, 50):
        made = sample(predict, x_0, noise_levels(num_steps, 1.7).double())
        assert torch.allclose(made, x_0 + a, atol=1e-6)


def curved(x, t):
    """Data between -1 and 1: paths that bend."""
    return (2 * x + t[:, None, None, None]).sin()


def test_solvers_of_higher_order_need_fewer_evaluations():
    """Normal data of deviation 0.3: the flow takes x_0 to 0.3 x_0, along bent paths."""
    x_0, errors = noise([0, 1, 2], SHAPE), {}

    def expected(x, t):  # E[x_1 | x_t]
        t = t[:, None, None, None]
        return 0.09 * t / ((1 - t) ** 2 + 0.09 * t**2) * x

    for name, num_steps in (("euler", 15), ("heun", 8), ("unipc", 15)):  # 15 evaluations each
        made = sample(expected, x_0, noise_levels(num_steps, 1.0), SAMPLERS[name])
        errors[name] = (made - 0.3 * x_0).abs().mean().item()
    assert errors["heun"] < 0.8 * errors["euler"]
    assert errors["unipc"] < 0.8 * errors["euler"]


@pytest.mark.parametrize("name", SAMPLERS)
def test_evaluations_are_counted_and_end_at_data(name):
    done, times = [], []

    def predict(x, t):
        times.append(t[0].item())
        return torch.zeros_like(x)

    sample(predict, noise([0], SHAPE), noise_levels(4, 1.7), SAMPLERS[name],
           lambda *told: done.append(told[:2]))  # fmt: skip
    evaluations = 7 if name == "heun" else 4
    assert done == [(i + 1, evaluations) for i in range(evaluations)]
    assert len(times) == evaluations
    assert all(0 <= t < 1 for t in times)
    assert times == sorted(times)


def test_times_run_from_noise_to_data_and_progress_counts():
    times, done = [], []

    def predict(x, t):
        times.append(t[0].item())
        return torch.zeros_like(x)

    sample(predict, noise([0], SHAPE), noise_levels(5, 1.0), progress=lambda n, *_: done.append(n))
    assert times == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    assert done == [1, 2, 3, 4, 5]
    times.clear()
    sample(predict, noise([0], SHAPE), noise_levels(5, 3.0))
    assert times[0] == 0
    assert all(a < b for a, b in itertools.pairwise(times))
    assert times[1] < 0.2  # a shift stays longer with the noise


@torch.inference_mode()
def test_a_seed_gives_one_picture_in_any_batch(decoder, embeddings):
    settings = {"num_steps": 3, "guidance_scale": 2.0}
    together = decoder.sample(embeddings, [10, 11, 12, 13], **settings)
    again = decoder.sample(embeddings, [10, 11, 12, 13], **settings)
    assert torch.equal(again, together)
    alone = decoder.sample(embeddings.take([2]), [12], **settings)
    assert torch.allclose(alone[0], together[2], atol=1e-2, rtol=1e-3)
    other = decoder.sample(embeddings.take([2]), [99], **settings)
    assert not torch.allclose(other[0], together[2], atol=1e-1)


@pytest.mark.parametrize("shift", [1.0, 1.7, 3.0])
def test_euler_is_diffusers_scheduler_bit_for_bit(shift):
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

    count = 7
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=[1 - i / count for i in range(count)])
    x = noise([0, 1], SHAPE)
    made = sample(curved, x, noise_levels(count, shift))
    for sigma, time in zip(scheduler.sigmas[:-1].tolist(), scheduler.timesteps, strict=True):
        t = torch.full((2,), 1 - sigma)
        against = -velocity(curved(x, t), x, t, min_sigma=0.0)
        x = scheduler.step(against, time, x, return_dict=False)[0]
    assert torch.equal(made, x)


def test_noise_levels_begin_where_strength_says():
    whole = noise_levels(10, 1.0)
    assert whole.tolist() == pytest.approx([1 - i / 10 for i in range(11)])
    assert noise_levels(10, 1.0, 0.5).tolist() == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    assert noise_levels(4, 3.0, 0.1)[0] == pytest.approx(0.25)  # shifted as in training
    assert noise_levels(10, 1.7, 0.0).tolist() == [0.0]
    x = noise([0], SHAPE)
    assert torch.equal(sample(curved, x, noise_levels(10, 1.7, 0.0)), x)
