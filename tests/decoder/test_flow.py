"""The algebra of the flow, in double precision."""

import pytest
import torch

from mmfm.decoder.flow import (
    MIN_SIGMA,
    clean,
    flow_loss,
    interpolate,
    sample_times,
    shift_sigma,
    velocity,
)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    x_0, x_1 = torch.randn(2, 6, 3, 4, 4, generator=generator, dtype=torch.float64)
    return x_0, x_1


def test_the_path_begins_at_noise_and_ends_at_data(pair):
    x_0, x_1 = pair
    assert torch.equal(interpolate(x_0, x_1, torch.zeros(6).double()), x_0)
    assert torch.equal(interpolate(x_0, x_1, torch.ones(6).double()), x_1)


def test_the_velocity_of_the_truth_is_data_minus_noise(pair):
    x_0, x_1 = pair
    t = torch.linspace(0, 1 - MIN_SIGMA, 6, dtype=torch.float64)
    x_t = interpolate(x_0, x_1, t)
    assert torch.allclose(velocity(x_1, x_t, t), x_1 - x_0, atol=1e-12)


def test_noise_data_and_velocity_give_each_other_back(pair):
    x_0, x_1 = pair
    t = torch.linspace(0.01, 1 - MIN_SIGMA, 6, dtype=torch.float64)
    x_t = interpolate(x_0, x_1, t)
    moved = velocity(x_1, x_t, t)  # data -> velocity -> data, and the noise that both came from
    data = clean(moved, x_t, t)
    noise = data - moved
    assert torch.allclose(data, x_1, atol=1e-12) and torch.allclose(noise, x_0, atol=1e-12)
    assert torch.allclose(interpolate(noise, data, t), x_t, atol=1e-12)


def test_a_step_along_the_velocity_arrives(pair):
    x_0, x_1 = pair
    t = torch.full((6,), 0.25, dtype=torch.float64)
    x_t = interpolate(x_0, x_1, t)
    later = x_t + 0.5 * velocity(x_1, x_t, t)
    assert torch.allclose(later, interpolate(x_0, x_1, t + 0.5), atol=1e-12)


def test_the_velocity_stays_bounded_at_the_end(pair):
    _, x_1 = pair
    t = torch.ones(6, dtype=torch.float64)
    assert torch.allclose(velocity(x_1 + 1, x_1, t), torch.full_like(x_1, 1 / MIN_SIGMA))


def test_the_loss_is_zero_at_the_truth_alone(pair):
    x_0, x_1 = pair
    t = torch.linspace(0, 0.9, 6, dtype=torch.float64)
    assert flow_loss(x_1, x_0, x_1, t).item() == pytest.approx(0, abs=1e-20)
    # an error e of the clean map is e / sigma in the velocity
    wanted = (0.1 / (1 - t)).square().mean().item()
    assert flow_loss(x_1 + 0.1, x_0, x_1, t).item() == pytest.approx(wanted)


def test_a_shift_of_one_changes_nothing_and_ends_stay():
    sigma = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert torch.equal(shift_sigma(sigma, 1.0), sigma)
    for shift in (0.5, 1.7, 6.0):
        shifted = shift_sigma(sigma, shift)
        assert (shifted[0], shifted[-1]) == (0, 1)
        assert (shifted.diff() > 0).all()  # monotone
        assert ((shifted > sigma) == (shift > 1))[1:-1].all()


def test_shifts_compose_and_invert():
    sigma = torch.linspace(0, 1, 11, dtype=torch.float64)
    twice = shift_sigma(shift_sigma(sigma, 2.0), 3.0)
    assert torch.allclose(twice, shift_sigma(sigma, 6.0), atol=1e-12)
    assert torch.allclose(shift_sigma(shift_sigma(sigma, 2.0), 0.5), sigma, atol=1e-12)


def test_training_times_are_inside_and_repeat():
    times = [sample_times(4000, s, torch.Generator().manual_seed(0)) for s in (1.0, 1.0, 3.0)]
    assert torch.equal(times[0], times[1])
    assert all(((t > 0) & (t < 1)).all() for t in times)
    assert times[0].median().item() == pytest.approx(0.5, abs=0.03)
    assert (times[2] < times[0]).all()  # a shift means more noise
