"""Tiny real decoders in both spaces, with weights far from their quiet start."""

import pytest
import torch
from torch.nn import functional as F

from mmfm.decoder.decoder import ImageDecoder
from mmfm.decoder.pixels import PixelDecoder
from mmfm.presets import preset
from mmfm.shapes import Embeddings


def build(space):
    config = preset("tiny", space=space)
    torch.manual_seed(0)
    return ImageDecoder(config.decoder, PixelDecoder(config.pixel_decoder))


@pytest.fixture(params=["pixel", "grid"])
def fresh(request):
    """A decoder as it is before training."""
    return build(request.param)


@pytest.fixture(params=["pixel", "grid"])
def decoder(request):
    """A decoder in which every parameter matters."""
    decoder = build(request.param).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return decoder


@pytest.fixture
def embeddings():
    """Four texts of at most five tokens; the second and fourth are shorter."""
    generator = torch.Generator().manual_seed(1)
    pooled = F.normalize(torch.randn(4, 32, generator=generator), dim=1)
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[1, 3:] = mask[3, 1:] = False
    return Embeddings(pooled, torch.randn(4, 5, 32, generator=generator), mask)
