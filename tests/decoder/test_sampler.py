"""The sampler: exact where Euler is exact, and one picture per seed."""

import itertools

import pytest
import torch

from mmfm.decoder import sampler
from mmfm.decoder.sampler import guided, noise, picture_seed, sample

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


@pytest.mark.parametrize("num_steps", [1, 2, 5, 20])
@pytest.mark.parametrize("shift", [1.0, 1.7])
def test_a_constant_prediction_is_reached_exactly(num_steps, shift):
    target = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(9))
    made = sample(lambda x, t: target, noise([0, 1], SHAPE), num_steps, shift)
    assert torch.allclose(made, target, atol=1e-5)


@pytest.mark.parametrize("num_steps", [4, 16])
def test_euler_is_exact_on_a_straight_path(num_steps):
    """Data that are noise plus one: every path is straight, so few steps are enough."""
    x_0 = noise([0, 1], SHAPE)

    def predict(x, t):  # x_t = x_0 + t, so x_1 = x_t + (1 - t)
        return x + (1 - t)[:, None, None, None]

    assert torch.allclose(sample(predict, x_0, num_steps, 1.0), x_0 + 1, atol=1e-5)


def test_times_run_from_noise_to_data_and_progress_counts():
    times, done = [], []

    def predict(x, t):
        times.append(t[0].item())
        return torch.zeros_like(x)

    sample(predict, noise([0], SHAPE), 5, 1.0, done.append)
    assert times == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    assert done == [1, 2, 3, 4, 5]
    times.clear()
    sample(predict, noise([0], SHAPE), 5, 3.0)
    assert times[0] == 0
    assert all(a < b for a, b in itertools.pairwise(times))
    assert times[1] < 0.2  # a shift stays longer with the noise


@torch.inference_mode()
def test_a_scale_of_one_is_no_guidance(decoder, embeddings):
    config, network = decoder.config, decoder.network
    x = noise([1, 2, 3, 4], (config.channels, config.map_size, config.map_size))
    t = torch.full((4,), 0.5)
    told, nothing = decoder._told(embeddings), decoder._nothing(embeddings)
    plain = network(x, t, told)
    assert torch.equal(guided(network, told, nothing, 1.0)(x, t), plain)
    # equal conditions leave nothing to move away from, whatever the scale
    assert torch.allclose(guided(network, told, told, 5.0)(x, t), plain, atol=1e-3)
    # a scale of zero is the unconditional prediction
    unconditional = network(x, t, nothing)
    assert torch.allclose(guided(network, told, nothing, 0.0)(x, t), unconditional, atol=1e-3)
    doubled = unconditional + 2 * (plain - unconditional)
    assert torch.allclose(guided(network, told, nothing, 2.0)(x, t), doubled, atol=1e-3)


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


def test_diffusers_is_the_scheduler():
    """The noise levels are diffusers' own, so that its other schedulers can take their place."""
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.7)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    seen = []
    sampler.sample(
        lambda x, t: seen.append(1 - t[0].item()) or torch.zeros_like(x), noise([0], SHAPE), 4, 1.7
    )
    assert seen == pytest.approx(scheduler.sigmas[:-1].tolist(), abs=1e-6)
