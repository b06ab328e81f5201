"""Spaces: encoding and decoding are inverses, and fitted maps are normalised."""

import pytest
import torch

from mmfm.decoder.decoder import ImageDecoder
from mmfm.decoder.pixels import PixelDecoder
from mmfm.decoder.spaces import GridSpace, PixelSpace
from mmfm.errors import ModelError
from mmfm.presets import preset


@pytest.fixture
def pixel_space():
    return PixelSpace(preset("tiny").decoder)


@pytest.fixture
def grid_space():
    config = preset("tiny", space="grid")
    torch.manual_seed(0)
    return GridSpace(config.decoder, PixelDecoder(config.pixel_decoder))


@pytest.fixture
def images():
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def tokens():
    scale = torch.linspace(0.1, 5, 32)
    return torch.randn(6, 16, 32, generator=torch.Generator().manual_seed(0)) * scale + 3


def test_pixels_come_back(pixel_space, images):
    pixel_space.fit(images)
    x = pixel_space.encode(images)
    assert x.shape == (6, 48, 8, 8)
    assert torch.allclose(pixel_space.decode(x), images, atol=1e-6)


def test_fitted_pixels_have_mean_0_and_deviation_1(pixel_space, images):
    pixel_space.fit(images)
    x = pixel_space.encode(images)
    assert x.mean().item() == pytest.approx(0, abs=1e-5)
    assert x.std().item() == pytest.approx(1, abs=1e-5)


def test_tokens_come_back(grid_space, tokens):
    grid_space.fit(tokens)
    x = grid_space.encode(tokens)
    assert x.shape == (6, 32, 4, 4)
    assert torch.allclose(grid_space.decode_tokens(x), tokens, atol=1e-5)


def test_every_fitted_channel_has_mean_0_and_deviation_1(grid_space, tokens):
    grid_space.fit(tokens)
    x = grid_space.encode(tokens)
    assert torch.allclose(x.mean(dim=(0, 2, 3)), torch.zeros(32), atol=1e-5)
    assert torch.allclose(x.std(dim=(0, 2, 3)), torch.ones(32), atol=1e-5)


def test_a_grid_is_drawn_by_the_pixel_decoder_it_was_given(grid_space, tokens):
    config = preset("tiny", space="grid")
    torch.manual_seed(3)
    pixel_decoder = PixelDecoder(config.pixel_decoder)
    space = GridSpace(config.decoder, pixel_decoder)
    space.fit(tokens)
    drawn = space.decode(space.encode(tokens))
    assert torch.allclose(drawn, pixel_decoder(tokens), atol=1e-4)
    # the pixel decoder is the model's own and is not saved a second time
    assert set(space.state_dict()) == {"mean", "scale"}


def test_a_grid_without_a_pixel_decoder_is_refused():
    with pytest.raises(ModelError, match="pixel decoder"):
        ImageDecoder(preset("tiny", space="grid").decoder)


def test_statistics_travel_with_the_weights(fresh, images, tokens):
    fresh.space.fit(images if fresh.config.space == "pixel" else tokens)
    config = preset("tiny", space=fresh.config.space)
    again = ImageDecoder(config.decoder, PixelDecoder(config.pixel_decoder))
    again.load_state_dict(fresh.state_dict())
    assert torch.equal(again.space.mean, fresh.space.mean)
    assert torch.equal(again.space.scale, fresh.space.scale)
