"""The pixel decoder: a grid in, a picture out, every token at its place."""

import torch

from mmfm.decoder.pixels import PixelDecoder
from mmfm.presets import preset


def test_a_grid_becomes_a_picture():
    torch.manual_seed(0)
    for name, size in (("tiny", 32), ("mini", 64)):
        config = preset(name).pixel_decoder
        tokens = torch.randn(2, config.grid_size**2, config.token_width)
        assert PixelDecoder(config)(tokens).shape == (2, 3, size, size)


@torch.inference_mode()
def test_batch_mates_change_nothing():
    torch.manual_seed(0)
    decoder = PixelDecoder(preset("tiny").pixel_decoder)
    tokens = torch.randn(3, 16, 32)
    assert torch.allclose(decoder(tokens[1:2])[0], decoder(tokens)[1], atol=1e-5)


@torch.inference_mode()
def test_a_fresh_decoder_draws_each_token_into_its_own_patch():
    """Before training the seams do nothing; without attention a token reaches its patch alone."""
    torch.manual_seed(0)
    decoder = PixelDecoder(preset("tiny").pixel_decoder)
    for block in decoder.blocks:
        block.attention.out.weight.zero_()
    tokens = torch.randn(1, 16, 32)
    changed = tokens.clone()
    changed[0, 6] += 1  # row 1, column 2 of the 4 x 4 grid
    difference = (decoder(changed) - decoder(tokens)).abs().amax(dim=(0, 1))
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[8:16, 16:24] = True
    assert (difference[inside] > 0).all()
    assert (difference[~inside] == 0).all()


def test_it_learns_four_pictures():
    torch.manual_seed(0)
    decoder = PixelDecoder(preset("tiny").pixel_decoder)
    tokens = torch.randn(4, 16, 32)
    images = torch.rand(4, 3, 4, 4).mul(2).sub(1).repeat_interleave(8, 2).repeat_interleave(8, 3)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=5e-3)
    for _ in range(60):
        loss = (decoder(tokens) - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.03  # the pictures' variance is 0.33
