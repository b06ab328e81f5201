"""ImageDecoder: it learns, it draws what it learned, and it keeps its promises about ports."""

import pytest
import torch

from mmfm.decoder.guidance import Part
from mmfm.shapes import Embeddings


def clean_maps(decoder):
    """Four plain maps, far apart."""
    config = decoder.config
    colours = torch.randn(4, config.channels, 1, 1, generator=torch.Generator().manual_seed(3))
    return colours.expand(-1, -1, config.map_size, config.map_size).contiguous()


def test_it_learns_four_maps_and_draws_them(fresh, embeddings):
    decoder, x_1 = fresh, clean_maps(fresh)
    generator = torch.Generator().manual_seed(0)
    text_open = torch.ones(4, dtype=torch.bool)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=3e-3)
    losses = []
    for _ in range(100):
        loss = decoder.loss(x_1, embeddings, text_open, ~text_open, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    first, last = sum(losses[:10]) / 10, sum(losses[-20:]) / 20
    assert last < 0.2 * first
    # each text brings back its own map, and not the others'
    decoder.eval()
    with torch.inference_mode():
        told = decoder.network.conditioner(embeddings, text_open, ~text_open)
        made = decoder.draw([Part(told, 1.0, 1.0)], [0, 1, 2, 3], num_steps=10)
    distances = torch.cdist(made.flatten(1), x_1.flatten(1))
    assert distances.argmin(dim=1).tolist() == [0, 1, 2, 3]


def test_the_loss_repeats_with_its_generator(decoder, embeddings):
    x_1 = clean_maps(decoder)
    ports = torch.tensor([True, True, False, False]), torch.tensor([False, True, True, False])
    first, again, other = (
        decoder.loss(x_1, embeddings, *ports, torch.Generator().manual_seed(seed)).item()
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


@torch.inference_mode()
def test_pictures_have_the_size_of_the_model(decoder, embeddings):
    made = decoder.sample(embeddings, [0, 1, 2, 3], num_steps=2, guidance_scale=3.0)
    assert made.shape == (4, 3, 32, 32)
    assert torch.isfinite(made).all()


@torch.inference_mode()
def test_a_text_is_read_through_the_text_port_alone(decoder, embeddings):
    settings = {"seeds": [0, 1, 2, 3], "num_steps": 2, "guidance_scale": 1.0}
    other = Embeddings(embeddings.pooled.flip(0), embeddings.tokens, embeddings.mask)
    told = decoder.sample(embeddings, **settings)
    assert torch.equal(decoder.sample(other, **settings), told)
    bare = decoder.sample(Embeddings(embeddings.pooled), **settings)
    bare_other = decoder.sample(Embeddings(other.pooled), **settings)
    assert not torch.allclose(bare, bare_other, atol=1e-3)


@torch.inference_mode()
def test_a_negative_text_replaces_the_empty_condition(decoder, embeddings):
    settings = {"seeds": [0, 1, 2, 3], "num_steps": 2}
    plain = decoder.sample(embeddings, guidance_scale=1.0, **settings)
    away_from_itself = decoder.sample(
        embeddings, negative=embeddings, guidance_scale=4.0, **settings
    )
    assert torch.allclose(away_from_itself, plain, atol=1e-2)
    other = decoder.sample(
        embeddings, negative=embeddings.take([1, 0, 3, 2]), guidance_scale=4.0, **settings
    )
    assert not torch.allclose(other, plain, atol=1e-1)


@torch.inference_mode()
def test_progress_is_told_at_every_step(decoder, embeddings):
    done = []
    decoder.sample(embeddings, [0] * 4, num_steps=3, guidance_scale=2.0, progress=done.append)
    assert done == [1, 2, 3]


def test_a_fresh_decoder_is_right_about_empty_maps(fresh, embeddings):
    """It predicts zero whatever the noise, so nothing but the data can be in its loss."""
    open_ = torch.ones(4, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    x_1 = torch.zeros_like(clean_maps(fresh))
    loss = fresh.loss(x_1, embeddings, open_, open_, generator)
    assert loss.item() == pytest.approx(0, abs=1e-6)
