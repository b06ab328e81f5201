"""The flow network: shapes in both spaces, and what must not matter does not."""

from dataclasses import replace

import pytest
import torch

from mmfm.decoder.network import Condition, Conditioner
from mmfm.shapes import Embeddings


@pytest.fixture
def x(decoder):
    config = decoder.config
    shape = (4, config.channels, config.map_size, config.map_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


T = torch.tensor([0.0, 0.3, 0.6, 1.0])
OPEN, CLOSED = torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)


@torch.inference_mode()
def test_a_map_comes_back_as_a_map(decoder, x, embeddings):
    network = decoder.network
    y = network(x, T, network.conditioner(embeddings))
    assert y.shape == x.shape
    assert torch.isfinite(y).all()


@torch.inference_mode()
def test_a_fresh_network_predicts_the_mean(fresh, embeddings):
    config, network = fresh.config, fresh.network
    x = torch.randn(4, config.channels, config.map_size, config.map_size)
    assert torch.equal(network(x, T, network.conditioner(embeddings)), torch.zeros_like(x))


@torch.inference_mode()
def test_batch_mates_change_nothing(decoder, x, embeddings):
    network = decoder.network
    together = network(x, T, network.conditioner(embeddings))
    for row in range(4):
        alone = network.conditioner(embeddings.take([row]))
        assert torch.allclose(network(x[[row]], T[[row]], alone)[0], together[row], atol=2e-4)


@torch.inference_mode()
def test_what_is_open_is_read(decoder, x, embeddings):
    network = decoder.network
    told = network(x, T, network.conditioner(embeddings))
    other_text = Embeddings(embeddings.pooled, embeddings.tokens.flip(0), embeddings.mask)
    other_vector = Embeddings(embeddings.pooled.flip(0), embeddings.tokens, embeddings.mask)
    assert not torch.allclose(network(x, T, network.conditioner(other_text)), told, atol=1e-3)
    assert not torch.allclose(network(x, T, network.conditioner(other_vector)), told, atol=1e-3)
    assert not torch.allclose(network(x, T.flip(0), network.conditioner(embeddings)), told)


@torch.inference_mode()
def test_a_closed_port_hides_its_input(decoder, x, embeddings):
    network = decoder.network
    other_text = Embeddings(embeddings.pooled, embeddings.tokens.flip(0), embeddings.mask)
    other_vector = Embeddings(embeddings.pooled.flip(0), embeddings.tokens, embeddings.mask)
    for other, ports in ((other_text, (CLOSED, OPEN)), (other_vector, (OPEN, CLOSED))):
        told = network(x, T, network.conditioner(embeddings, *ports))
        assert torch.equal(network(x, T, network.conditioner(other, *ports)), told)


@torch.inference_mode()
def test_a_closed_text_port_equals_no_text(decoder, x, embeddings):
    network = decoder.network
    closed = network(x, T, network.conditioner(embeddings, CLOSED, OPEN))
    absent = network(x, T, network.conditioner(Embeddings(embeddings.pooled)))
    assert torch.allclose(closed, absent, atol=1e-4)


@torch.inference_mode()
def test_ports_close_for_single_samples(decoder, x, embeddings):
    network = decoder.network
    some = torch.tensor([True, False, True, False])
    mixed = network(x, T, network.conditioner(embeddings, some, ~some))
    texts = network(x, T, network.conditioner(embeddings, OPEN, CLOSED))
    vectors = network(x, T, network.conditioner(embeddings, CLOSED, OPEN))
    wanted = torch.where(some[:, None, None, None], texts, vectors)
    assert torch.allclose(mixed, wanted, atol=1e-4)


@torch.inference_mode()
def test_padding_of_the_text_changes_nothing(decoder, x, embeddings):
    network = decoder.network
    told = network(x, T, network.conditioner(embeddings))
    tokens = torch.cat([embeddings.tokens, torch.full((4, 3, 32), 7.0)], dim=1)
    mask = torch.cat([embeddings.mask, torch.zeros(4, 3, dtype=torch.bool)], dim=1)
    tokens[~mask] = -3.0  # whatever stands where nothing is said
    padded = network.conditioner(Embeddings(embeddings.pooled, tokens, mask))
    assert torch.allclose(network(x, T, padded), told, atol=1e-4)


@torch.inference_mode()
def test_no_mask_means_all_tokens_are_real(decoder, x, embeddings):
    network = decoder.network
    everything = Embeddings(embeddings.pooled, embeddings.tokens, torch.ones(4, 5).bool())
    bare = Embeddings(embeddings.pooled, embeddings.tokens)
    told = network(x, T, network.conditioner(everything))
    assert torch.equal(network(x, T, network.conditioner(bare)), told)


@torch.inference_mode()
def test_stacked_conditions_are_read_as_if_apart(decoder, x, embeddings):
    network = decoder.network
    first = network.conditioner(embeddings)
    second = network.conditioner(Embeddings(embeddings.pooled), None, CLOSED)  # shorter
    both = network(torch.cat([x, x]), torch.cat([T, T]), Condition.stack([first, second]))
    apart = torch.cat([network(x, T, first), network(x, T, second)])
    assert torch.allclose(both, apart, atol=2e-4)


def test_every_parameter_learns(decoder, x, embeddings):
    network = decoder.network
    some = torch.tensor([True, True, False, False])
    network(x, T, network.conditioner(embeddings, some, ~some)).square().mean().backward()
    learned = {n for n, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert learned == {n for n, _ in network.named_parameters()}
    assert all(p.grad.isfinite().all() for p in network.parameters())


def placed(places, mask):
    """A condition whose words stand at `places` (B, M, 2)."""
    count = mask.shape[1]
    return Condition(torch.zeros(len(mask), count, 8), mask, torch.zeros(len(mask), 8), places)


MASK = torch.tensor([[True, True, True, False]])


def test_every_place_reads_the_nearest_word_best():
    nowhere, left, below = [torch.nan, torch.nan], [0.2, 0.3], [0.6, 0.9]
    scores = placed(torch.tensor([[nowhere, left, below, left]]), MASK).scores(4, 6)
    assert scores.shape == (1, 24, 4)
    assert (scores[..., 0] == 0).all()  # what has no place is read alike everywhere
    assert (scores[..., 3] == -torch.inf).all()  # what is masked nowhere
    assert (scores[..., :3].amax(dim=2) == 0).all() and (scores[..., 1:3].amin(dim=2) < 0).all()
    near = scores[0, :, 1:3].argmax(dim=1).unflatten(0, (4, 6))
    assert near[0].sum() == 0 and near[3].sum() == 6  # words: left above, below


def test_words_in_one_place_are_read_as_if_they_had_none():
    together = torch.full((1, 4, 2), 0.3)
    assert (placed(together, MASK).scores(4, 4)[..., :3] == 0).all()
    assert (placed(None, MASK).scores(4, 4)[..., :3] == 0).all()


def test_a_mirrored_layout_is_read_mirrored():
    places = torch.rand(1, 4, 2, generator=torch.Generator().manual_seed(0))
    mirrored = torch.stack([1 - places[..., 0], places[..., 1]], dim=-1)
    scores, other = (placed(p, MASK).scores(4, 4).unflatten(1, (4, 4)) for p in (places, mirrored))
    assert torch.allclose(scores.flip(2), other, atol=1e-4)


def read(decoder, embeddings, text_depth):
    """What the text becomes in the context, by a decoder that reads it so deep."""
    config = replace(decoder.config, text_depth=text_depth)
    torch.manual_seed(0)
    conditioner = Conditioner(config, decoder.network.width)
    own = decoder.network.conditioner.state_dict()
    plain = {name: value for name, value in own.items() if not name.startswith("reader.")}
    conditioner.load_state_dict(plain, strict=False)
    start = 1 + conditioner.num_pooled_tokens
    return conditioner, lambda tokens: conditioner(
        Embeddings(embeddings.pooled, tokens, embeddings.mask)
    ).context[:, start : start + tokens.shape[1]]


@torch.inference_mode()
def test_a_fresh_reader_changes_nothing(decoder, embeddings):
    (_, without), (_, with_one) = (read(decoder, embeddings, depth) for depth in (0, 2))
    tokens = embeddings.tokens
    assert torch.allclose(without(tokens), with_one(tokens), atol=1e-4)


@torch.inference_mode()
def test_the_reader_tells_a_word_of_those_after_it(decoder, embeddings):
    other = embeddings.tokens.clone()
    other[0, 4] = embeddings.tokens[0, 4].flip(0)
    for depth in (0, 1):
        conditioner, reading = read(decoder, embeddings, depth)
        for parameter in conditioner.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        changed = (reading(other) - reading(embeddings.tokens)).abs().amax(dim=(1, 2))
        before = (reading(other) - reading(embeddings.tokens))[0, :4].abs().amax()
        assert changed[0] > 1e-3
        assert (before > 1e-4) == bool(depth)
        assert changed[1:].max() == 0  # other texts
