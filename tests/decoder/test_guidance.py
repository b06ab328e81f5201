"""Guidance is a sum of predictions; what is known of a map is kept by every solver."""

import pytest
import torch

from mmfm.decoder.decoder import Start
from mmfm.decoder.guidance import Part, guided, kept
from mmfm.decoder.sampler import SAMPLERS, noise, noise_levels, sample


@pytest.fixture
def conditions(decoder, embeddings):
    """Told, nothing, and what else the same texts could be told as, of four rows."""
    return decoder._told(embeddings), decoder._nothing(embeddings)


@pytest.fixture
def x(decoder):
    config = decoder.config
    return noise([1, 2, 3, 4], (config.channels, config.map_size, config.map_size))


T = torch.full((4,), 0.5)


@torch.inference_mode()
def test_a_scale_of_one_is_no_guidance(decoder, conditions, x):
    told, nothing = conditions
    plain = decoder.network(x, T, told)
    parts = [Part(told, 1.0, 1.0), Part(nothing, 0.0, 0.0)]
    assert torch.equal(guided(decoder.network, parts)(x, T), plain)
    # equal conditions leave nothing to move away from, whatever the scale
    parts = [Part(told, 5.0, 1.0), Part(told, -4.0, 0.0)]
    assert torch.allclose(guided(decoder.network, parts)(x, T), plain, atol=1e-3)


@torch.inference_mode()
def test_weights_add_predictions(decoder, conditions, x):
    network, (told, nothing) = decoder.network, conditions
    a, b = network(x, T, told), network(x, T, nothing)
    said = guided(network, [Part(told, 3.0, 1.0), Part(nothing, -2.0, 0.0)])(x, T)
    assert torch.allclose(said, 3 * a - 2 * b, atol=1e-3)
    # one weight for each row: the first two follow the text, the others nothing
    some = torch.tensor([1.0, 1.0, 0.0, 0.0])
    said = guided(network, [Part(told, some, some), Part(nothing, 1 - some, 1 - some)])(x, T)
    assert torch.allclose(said, torch.cat([a[:2], b[2:]]), atol=1e-4)


@torch.inference_mode()
def test_what_is_remembered_changes_nothing(decoder, conditions, x):
    network, (told, nothing) = decoder.network, conditions
    parts = [Part(told, 3.0, 1.0), Part(nothing, -2.0, 0.0)]
    again = guided(network, parts, remember=network.remember)(x, T)
    assert torch.equal(again, guided(network, parts)(x, T))


@torch.inference_mode()
def test_outside_its_interval_there_is_no_guidance(decoder, conditions, x):
    network, (told, nothing) = decoder.network, conditions
    parts = [Part(told, 3.0, 1.0), Part(nothing, -2.0, 0.0)]
    within = guided(network, parts, interval=(0.3, 0.6))
    assert torch.equal(within(x, T), guided(network, parts)(x, T))
    for time in (0.2, 0.7):
        t = torch.full((4,), time)
        assert torch.equal(within(x, t), network(x, t, told))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_every_solver_comes_back_to_what_is_known(name, strength):
    x_0 = noise([0, 1], (3, 4, 4)).double()
    known = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    mask[..., :2] = 1
    predict = kept(lambda x, t: x.sin(), known, mask)
    sigmas = noise_levels(6, 1.7, strength)
    x = sigmas[0] * x_0 + (1 - sigmas[0]) * known
    made = sample(predict, x, sigmas, SAMPLERS[name])
    assert torch.allclose(made[..., 2:], known[..., 2:].to(made), atol=1e-5)
    assert not torch.allclose(made[..., :2], known[..., :2].to(made), atol=1e-1)


@torch.inference_mode()
def test_the_limits_of_strength(decoder, conditions):
    config = decoder.config
    shape = (1, config.channels, config.map_size, config.map_size)
    known = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    parts = [Part(conditions[0], 1.0, 1.0)]
    seeds = [1, 2, 3, 4]
    fresh = decoder.draw(parts, seeds, num_steps=3)
    forgotten = decoder.draw(parts, seeds, num_steps=3, start=Start(known, strength=1.0))
    assert torch.equal(forgotten, fresh)
    left = decoder.draw(parts, seeds, num_steps=3, start=Start(known, strength=0.0))
    assert torch.equal(left, known.expand_as(left))
    half = decoder.draw(parts, seeds, num_steps=4, start=Start(known, strength=0.5))
    assert not torch.allclose(half, fresh) and not torch.allclose(half, left)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(4, 8), (8, 6)])
def test_maps_of_other_sizes_and_shapes(decoder, conditions, size):
    made = decoder.draw([Part(conditions[0], 1.0, 1.0)], [1, 2, 3, 4], num_steps=2, size=size)
    assert made.shape == (4, decoder.config.channels, *size)
    pictures = decoder.space.decode(made)
    cell = 32 // decoder.config.map_size
    assert pictures.shape == (4, 3, cell * size[0], cell * size[1])
    assert torch.isfinite(pictures).all()
