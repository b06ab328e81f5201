"""Stage two on twelve drawings, in both spaces: caches are exact, the loss falls."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmfm.decoder.decoder import ImageDecoder
from mmfm.encoders.backbone import Backbone
from mmfm.errors import InputError, ModelError
from mmfm.presets import preset
from mmfm.training.flow import FlowData, FlowShares, FlowTask
from tests.decoder.tiny_autoencoders import build, model_config
from tests.training.tiny_flow import tiny_flow


@pytest.fixture(params=["pixel", "grid"])
def parts(request, drawings):
    return tiny_flow(drawings, request.param)


@torch.inference_mode()
def test_the_cache_says_what_the_towers_say(parts, drawings):
    backbone, decoder, data = parts
    rows = np.array([5, 0, 7])
    images = torch.from_numpy(drawings.on_ground(rows))
    seen = backbone.encode_images(images)
    assert torch.allclose(data.pooled(rows), seen.pooled, atol=1e-5)
    clean = seen.tokens if decoder.config.space == "grid" else images
    assert torch.allclose(data.maps(rows), decoder.space.encode(clean), atol=2e-2)

    texts = [drawings.captions[r][r % 2] for r in rows]
    said = backbone.encode_texts(backbone.tokenize(texts))
    told = data.told(texts, seen.pooled)
    assert torch.equal(told.mask, said.mask)
    difference = (told.tokens - said.tokens)[said.mask]
    assert difference.abs().max() < 5e-3  # kept in half precision


@torch.inference_mode()
def test_fitted_maps_are_normalised(parts):
    x = parts[2].maps(np.arange(12))
    assert x.mean().abs() < 0.05
    assert x.std().item() == pytest.approx(1, abs=0.05)


def test_the_loss_falls_and_the_figures_are_numbers(parts, drawings):
    backbone, decoder, data = parts
    with torch.no_grad():
        held_out = FlowData(backbone, decoder, drawings.select(np.arange(36) % 12))
    task = FlowTask(decoder, data, held_out)
    with torch.inference_mode():
        before, _ = task.evaluate(decoder.eval())
    optimizer = torch.optim.Adam(decoder.parameters(), lr=3e-3)
    decoder.train()
    for step in range(50):
        loss, _ = task.loss(np.arange(12), torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
    with torch.inference_mode():
        after, sheets = task.evaluate(decoder.eval())
    assert after["held_out"] == 36
    for t in (0.1, 0.4, 0.7):
        assert after[f"held_out_loss@{t}"] < 0.8 * before[f"held_out_loss@{t}"]
    assert {name: sheet.size for name, sheet in sheets.items()} == {
        "samples": (8 * 32, 4 * 32), "real": (8 * 32, 4 * 32)
    }  # fmt: skip


def test_no_gradient_reaches_the_towers(parts):
    backbone, decoder, data = parts
    loss, _ = FlowTask(decoder, data, data).loss(np.arange(8), torch.Generator().manual_seed(0))
    loss.backward()
    assert all(p.grad is None for p in backbone.parameters())
    assert any(p.grad is not None for p in decoder.parameters())


def test_the_loss_repeats_with_its_generator(parts):
    _, decoder, data = parts
    with torch.no_grad():
        torch.nn.init.normal_(decoder.network.out.weight, std=0.1)
    task = FlowTask(decoder, data, data)
    first, again, other = (
        task.loss(np.arange(8), torch.Generator().manual_seed(seed))[0].item() for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("shares", "text_learns", "vector_learns"),
    [
        (FlowShares(text=1, both=0, pooled=0), True, False),
        (FlowShares(text=0, both=0, pooled=1), False, True),
        (FlowShares(text=0, both=1, pooled=0), True, True),
        (FlowShares(text=0, both=0, pooled=0), False, False),
    ],
)
def test_shares_decide_which_port_is_open(parts, shares, text_learns, vector_learns):
    _, decoder, data = parts
    with torch.no_grad():  # away from the start, where conditions do not reach the loss
        for parameter in decoder.network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    task = FlowTask(decoder, data, data, shares)
    task.loss(np.arange(8), torch.Generator().manual_seed(0))[0].backward()
    conditioner = decoder.network.conditioner

    def learns(layer):
        return layer.weight.grad is not None and bool(layer.weight.grad.abs().max() > 1e-9)

    assert learns(conditioner.text[1]) == text_learns
    assert learns(conditioner.pooled_vector) == vector_learns
    assert learns(conditioner.pooled) == vector_learns


@pytest.mark.parametrize("kind", ["kl", "rae"])
def test_it_learns_in_the_space_of_an_autoencoder(kind, drawings):
    autoencoder = build(kind)
    decoder, data = in_vae(autoencoder, drawings)
    rows = np.arange(12)
    images = torch.from_numpy(drawings.on_ground(rows))
    x = data.maps(rows)
    assert torch.allclose(x, decoder.space.encode(images), atol=2e-2)  # cached in half precision
    assert x.std().item() == pytest.approx(1, abs=0.05)

    task, before = FlowTask(decoder, data, data), {n: p.clone() for n, p in named(autoencoder)}
    optimizer = torch.optim.Adam(decoder.parameters(), lr=3e-3)
    losses = []
    for step in range(40):
        loss, _ = task.loss(rows, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])
    assert all(torch.equal(p, before[n]) for n, p in named(autoencoder))
    with torch.inference_mode():
        numbers, sheets = task.evaluate(decoder.eval())
    assert numbers["held_out"] == 12 and sheets["samples"].size == (8 * 32, 2 * 32)


def in_vae(autoencoder, drawings, **settings):
    config = model_config(autoencoder, **settings)
    torch.manual_seed(0)
    backbone = Backbone.from_config(config.backbone).eval()
    decoder = ImageDecoder(config.decoder, autoencoder=autoencoder)
    with torch.no_grad():
        data = FlowData(backbone, decoder, drawings)
        data.fit_space()
    return decoder, data


def named(module):
    return list(module.named_parameters())


@pytest.mark.parametrize("kind", ["kl", "rae"])
def test_latents_are_drawn_anew_where_there_is_a_posterior(kind, drawings):
    _, data = in_vae(build(kind), drawings, sample_latents=True)
    rows = np.arange(12)
    draws = [data.maps(rows, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2]) == (kind == "rae")


def test_an_autoencoder_of_other_maps_is_refused(drawings):
    autoencoder = build("kl")
    config = replace(model_config(autoencoder).decoder, map_size=16)
    backbone = Backbone.from_config(preset("tiny").backbone).eval()
    with pytest.raises(ModelError, match=r"maps of \(4, 8, 8\)"):
        FlowData(backbone, ImageDecoder(config, autoencoder=autoencoder), drawings)


def test_shares_above_one_are_refused():
    with pytest.raises(InputError, match="sum of at most 1"):
        FlowShares(text=0.8, both=0.2, pooled=0.1)


def test_the_share_of_names_decides_the_texts(parts, drawings):
    _, _, data = parts
    rows, generator = np.arange(12), torch.Generator().manual_seed(0)
    for share, which in ((1.0, 0), (0.0, 1)):
        told = data.draw(rows, FlowShares(name=share, pooled_noise=0.0), generator).embeddings
        wanted = data.told([drawings.captions[r][which] for r in rows], told.pooled)
        assert torch.equal(told.tokens, wanted.tokens)
