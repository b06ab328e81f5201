"""The lean copy computes what the network computes, and leaves the network alone."""

import pytest
import torch
from torch import nn

from mmfm.decoder.guidance import Part
from mmfm.decoder.lean import LeanConv, lean


@torch.inference_mode()
def test_in_float32_it_is_the_same_network(decoder, embeddings):
    parts = [Part(decoder._told(embeddings), 3.0, 1.0), Part(decoder._nothing(embeddings), -2.0, 0)]
    copy = lean(decoder.network, torch.float32)
    settings = {"seeds": [0, 1, 2, 3], "num_steps": 3}
    exact = decoder.draw(parts, **settings)
    made = decoder.draw(parts, network=copy, **settings)
    assert torch.allclose(made, exact, rtol=1e-3, atol=1e-2)
    assert not torch.equal(exact, decoder.draw(parts[:1], **settings))


@torch.inference_mode()
def test_in_bfloat16_it_is_near_and_its_rows_do_not_mix(decoder, embeddings):
    copy, config = lean(decoder.network), decoder.config
    x = torch.randn(4, config.channels, config.map_size, config.map_size)
    t, told = torch.full((4,), 0.5), decoder._told(embeddings)
    exact, made = decoder.network(x, t, told), copy(x, t, told)
    assert 0 < (made - exact).abs().mean() < 0.05 * exact.abs().mean()
    alone = copy(x[:1], t[:1], decoder._told(embeddings.take([0])))
    assert torch.allclose(alone, made[:1], atol=0.05 * exact.abs().mean().item())


def test_the_network_keeps_its_own_weights(decoder):
    before = {name: value.clone() for name, value in decoder.network.state_dict().items()}
    copy = lean(decoder.network)
    assert not any(isinstance(module, nn.Linear) for module in copy.modules())
    for name, value in decoder.network.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, before[name])


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (2, 7), (16, 16)])
@pytest.mark.parametrize("kind", [{"padding": 1}, {"padding": 1, "stride": 2}, {"kernel_size": 1}])
def test_a_convolution_by_one_product_is_a_convolution(size, kind):
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, **{"kernel_size": 3, **kind})
    x = torch.randn(2, 5, *size)
    with torch.inference_mode():
        assert torch.allclose(LeanConv(conv, torch.float32)(x), conv(x), atol=1e-5)
