"""x- and velocity-prediction say the same thing; training times follow their law."""

from dataclasses import replace

import pytest
import torch

from mmfm.decoder.flow import Times, clean, sample_times, shift_sigma, unshift_sigma, velocity
from mmfm.decoder.network import FlowNetwork
from mmfm.errors import InputError
from mmfm.presets import tiny
from mmfm.shapes import Embeddings


def test_clean_is_the_inverse_of_velocity():
    torch.manual_seed(0)
    x_t, predicted = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    t = torch.tensor([0.0, 0.3, 0.6, 0.9, 0.99], dtype=torch.float64)
    assert torch.allclose(clean(velocity(predicted, x_t, t, 0.0), x_t, t), predicted, atol=1e-12)


@torch.no_grad()
def test_a_network_of_velocities_hands_on_clean_maps():
    config = replace(tiny().decoder, prediction="v")
    torch.manual_seed(0)
    network = FlowNetwork(config)
    torch.nn.init.normal_(network.out.weight, std=0.1)
    same = FlowNetwork(replace(config, prediction="x"))
    same.load_state_dict(network.state_dict())
    pooled = torch.nn.functional.normalize(torch.randn(3, config.pooled_width), dim=1)
    condition = network.conditioner(Embeddings(pooled))
    x_t = torch.randn(3, config.channels, config.map_size, config.map_size)
    t = torch.tensor([0.0, 0.5, 1.0])
    made, computed = network(x_t, t, condition), same(x_t, t, condition)
    assert torch.allclose(made, x_t + (1 - t)[:, None, None, None] * computed, atol=1e-6)
    assert torch.equal(made[2], x_t[2])  # at t = 1 nothing is left to do


def test_times_follow_their_law():
    generator = torch.Generator().manual_seed(0)
    uniform = sample_times(4000, 1.0, generator, Times(law="uniform")).sort().values
    assert (uniform - torch.linspace(0, 1, 4000)).abs().max() < 0.04
    noisier = sample_times(4000, 1.0, generator, Times(mean=1.0, std=0.5))
    logit = torch.logit(1 - noisier)
    assert logit.mean().item() == pytest.approx(1.0, abs=0.05)
    assert logit.std().item() == pytest.approx(0.5, abs=0.05)


def test_unshift_is_the_inverse_of_shift():
    sigma = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.allclose(unshift_sigma(shift_sigma(sigma, 3.0), 3.0), sigma, atol=1e-12)


@pytest.mark.parametrize("wrong", [{"law": "normal"}, {"std": 0.0}])
def test_impossible_times_are_refused(wrong):
    with pytest.raises(InputError, match="times"):
        Times(**wrong)
