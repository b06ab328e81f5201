"""The few-step mode: fresh it is the flow bit for bit, its nodes are the sampler's own."""

from dataclasses import replace

import pytest
import torch

from mmfm.decoder import sampler
from mmfm.decoder.decoder import ImageDecoder
from mmfm.decoder.few_steps import advance, between, nodes, towards
from mmfm.errors import InputError, ModelError
from mmfm.presets import tiny
from mmfm.shapes import Embeddings


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    decoder = ImageDecoder(replace(tiny().decoder, few_steps=3, few_steps_rank=2)).eval()
    with torch.no_grad():  # away from the start, where conditions do not reach the output
        for parameter in decoder.network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return decoder


@pytest.fixture
def said():
    torch.manual_seed(1)
    pooled = torch.nn.functional.normalize(torch.randn(2, 32), dim=1)
    return Embeddings(pooled, torch.randn(2, 5, 32), torch.ones(2, 5, dtype=torch.bool))


@torch.no_grad()
def test_a_fresh_mode_is_the_unguided_flow_bit_for_bit(decoder, said):
    few = decoder.sample_few(said, [0, 1])
    assert torch.equal(few, decoder.sample(said, [0, 1], num_steps=3, guidance_scale=1.0))


@torch.no_grad()
def test_a_trained_mode_draws_otherwise_and_leaves_the_flow_alone(decoder, said):
    before = decoder.sample(said, [0, 1], num_steps=3, guidance_scale=2.0)
    fresh = decoder.sample_few(said, [0, 1])
    for parameter in decoder.few_steps.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape))
    assert not torch.allclose(decoder.sample_few(said, [0, 1]), fresh, atol=1e-3)
    assert torch.equal(decoder.sample(said, [0, 1], num_steps=3, guidance_scale=2.0), before)


@torch.no_grad()
def test_one_evaluation_a_step(decoder, said):
    rows = []
    network = decoder.few_network()
    hook = network.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    decoder.sample_few(said, [0, 1])
    hook.remove()
    assert rows == [2, 2, 2]


@torch.no_grad()
def test_the_sampler_visits_the_nodes(decoder):
    visited = []
    x = torch.zeros(1, 2, 4, 4)
    sigmas = sampler.noise_levels(3, decoder.config.shift)
    sampler.sample(lambda x, t: visited.append(t.item()) or x, x, sigmas)
    assert visited == pytest.approx(nodes(3, decoder.config.shift)[:-1].tolist(), abs=1e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_times_between_nodes_refine_them(shift):
    coarse, fine = nodes(2, shift), nodes(6, shift)
    made = between(coarse[:-1], coarse[1:], 3, shift)  # (4, 2)
    assert torch.allclose(made[:, 0], fine[:4], atol=1e-6)
    assert torch.allclose(made[:, 1], fine[3:], atol=1e-6)


def test_towards_is_the_inverse_of_advance():
    torch.manual_seed(0)
    x, clean = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4).double()
    start, end = torch.tensor([0.0, 0.4]).double(), torch.tensor([0.1, 1.0]).double()
    made = towards(advance(clean, x, start, end), x, start, end)
    assert torch.allclose(made, clean, atol=1e-12)
    assert torch.allclose(advance(clean, x, start, end)[1], clean[1])  # to the end: the map itself


def test_a_decoder_without_the_mode_says_so(said):
    decoder = ImageDecoder(tiny().decoder)
    assert not any(key.startswith("few_steps") for key in decoder.state_dict())
    with pytest.raises(ModelError, match="few_steps=0"):
        decoder.sample_few(said, [0, 1])


def test_impossible_settings_are_refused():
    with pytest.raises(InputError, match="few_steps"):
        replace(tiny().decoder, few_steps=-1)
    with pytest.raises(InputError, match="prediction"):
        replace(tiny().decoder, prediction="noise")
