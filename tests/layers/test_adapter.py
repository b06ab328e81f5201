"""An adapter changes no bit while fresh, learns alone, and merges into what it computed."""

import pytest
import torch
from torch import nn

from mmfm.layers.adapter import Adapter


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1))


def filled(network, **settings):
    adapter = Adapter(network, 2, **settings)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return adapter


def test_a_fresh_adapter_changes_no_bit(network):
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(Adapter(network, 2).bind(network)(x), network(x))


def test_gradients_reach_the_adapter_alone(network):
    adapter = filled(network)
    adapter.bind(network)(torch.randn(2, 3, 4, 4)).square().sum().backward()
    assert all(p.grad is None for p in network.parameters())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in adapter.parameters())


def test_binding_leaves_the_network_as_it_is(network):
    x, before = torch.randn(2, 3, 4, 4), {k: v.clone() for k, v in network.state_dict().items()}
    adapter = filled(network)
    assert not torch.allclose(adapter.bind(network)(x), network(x))
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_merged_weights_compute_what_the_adapter_did(network):
    x, adapter = torch.randn(2, 3, 4, 4), filled(network)
    wanted = adapter.bind(network)(x)
    adapter.merge(network)
    assert torch.equal(network(x), wanted)


def test_a_change_has_the_rank_it_was_given(network):
    before = network[0].weight.detach().clone()
    filled(network).merge(network)
    change = (network[0].weight.detach() - before).flatten(1)
    assert torch.linalg.matrix_rank(change, atol=1e-5) == 2


def test_skipped_parts_stay(network):
    adapter = filled(network, skip=("2.",))
    assert set(adapter.weights(network)) == {"0.weight", "0.bias", "1.weight", "1.bias"}
