"""A tiny backbone, a decoder, and pictures cached for it: what trainings of the flow begin with."""

from dataclasses import replace

import torch

from mmfm.decoder.decoder import ImageDecoder
from mmfm.decoder.pixels import PixelDecoder
from mmfm.encoders.backbone import Backbone
from mmfm.presets import preset
from mmfm.training.flow import FlowData


def tiny_flow(pictures, space, *, spread=0.0, **settings):
    """(backbone, decoder, data), always the same.

    spread: of noise on the flow's weights, which start at a flow that says nothing. settings: of
    DecoderConfig.
    """
    config = preset("tiny", space=space)
    torch.manual_seed(0)
    backbone = Backbone.from_config(config.backbone).eval()
    decoder = ImageDecoder(replace(config.decoder, **settings), PixelDecoder(config.pixel_decoder))
    with torch.no_grad():
        if spread:
            for parameter in decoder.network.parameters():
                parameter.add_(spread * torch.randn(parameter.shape))
        data = FlowData(backbone, decoder, pictures)
        data.fit_space()
    return backbone, decoder, data
