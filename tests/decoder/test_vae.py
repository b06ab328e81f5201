"""The space of a diffusers autoencoder: its conventions are kept, its statistics are ours."""

import copy
from dataclasses import replace

import pytest
import torch

from mmfm.decoder.decoder import ImageDecoder
from mmfm.decoder.vae import VaeSpace, latent_shape, load_autoencoder
from mmfm.errors import ModelError
from tests.decoder.tiny_autoencoders import KINDS, build, model_config


@pytest.fixture(scope="module", params=list(KINDS))
def autoencoder(request):
    return build(request.param)


@pytest.fixture(scope="module")
def kl():
    return build("kl")


@pytest.fixture(scope="module")
def images():
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def space_of(autoencoder, **settings):
    return VaeSpace(model_config(autoencoder, **settings).decoder, autoencoder)


@torch.inference_mode()
def test_a_picture_comes_back_as_the_autoencoder_gives_it(autoencoder, images):
    """Whatever the statistics: decode(encode(x)) is what the autoencoder makes of x by itself."""
    space = space_of(autoencoder)
    space.fit(images)
    x = space.encode(images)
    assert x.shape[1:] == latent_shape(autoencoder, 32)
    if type(autoencoder).__name__ == "AutoencoderRAE":  # it works on [0, 1]
        wanted = autoencoder((images + 1) / 2).sample * 2 - 1
    elif type(autoencoder).__name__ == "AutoencoderKLQwenImage":
        wanted = autoencoder(images[:, :, None]).sample[:, :, 0]
    elif type(autoencoder).__name__ == "AutoencoderTiny":  # its forward rounds to bytes
        wanted = autoencoder.decode(autoencoder.encode(images).latents).sample
    else:
        wanted = autoencoder(images).sample
    assert torch.allclose(space.decode(x), wanted, atol=1e-4)


@torch.inference_mode()
def test_every_fitted_channel_has_mean_0_and_deviation_1(autoencoder, images):
    space = space_of(autoencoder)
    space.fit(images)
    x = space.encode(images)
    assert torch.allclose(x.mean(dim=(0, 2, 3)), torch.zeros(x.shape[1]), atol=1e-4)
    assert torch.allclose(x.std(dim=(0, 2, 3)), torch.ones(x.shape[1]), atol=1e-3)


@torch.inference_mode()
def test_before_it_is_fitted_a_space_keeps_to_the_published_scale(kl, images):
    latents = kl.encode(images).latent_dist.mode()
    wanted = (latents - 0.1) * 0.5  # (latents - shift_factor) * scaling_factor, as pipelines do
    assert torch.allclose(space_of(kl).encode(images), wanted, atol=1e-6)
    rae = build("rae")
    assert torch.equal(space_of(rae).encode(images), rae.encode((images + 1) / 2).latent)
    film = build("video")
    latents = film.encode(images[:, :, None]).latent_dist.mode()[:, :, 0]
    assert torch.allclose(space_of(film).encode(images)[:, 0], (latents[:, 0] - 0.1) / 2, atol=1e-6)


@torch.inference_mode()
def test_latents_are_drawn_when_asked_and_repeat_with_their_generator(kl, images):
    fixed, drawn = space_of(kl), space_of(kl, sample_latents=True)
    first, again, other = (
        drawn.latents(images, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    mean, deviation = drawn.posterior(images)
    assert ((first - mean) / deviation).std().item() == pytest.approx(1, abs=0.1)
    assert torch.equal(drawn.latents(images), mean)  # nobody asked
    assert torch.equal(fixed.latents(images, torch.Generator().manual_seed(0)), mean)


def test_the_autoencoder_is_held_and_not_owned(kl):
    decoder = ImageDecoder(model_config(kl).decoder, autoencoder=kl)
    assert set(decoder.space.state_dict()) == {"mean", "scale"}
    assert list(decoder.space.parameters()) == []
    assert not any(p.requires_grad for p in kl.parameters())
    average = copy.deepcopy(decoder)
    assert average.space.autoencoder is kl
    average.space.mean.add_(1)
    assert not torch.equal(average.space.mean, decoder.space.mean)
    again = ImageDecoder(model_config(kl).decoder, autoencoder=kl)
    again.load_state_dict(average.state_dict())
    assert torch.equal(again.space.mean, average.space.mean)


@torch.inference_mode()
def test_an_autoencoder_in_half_precision_gives_maps_in_single(images):
    space = space_of(build("kl").to(torch.bfloat16))
    x = space.encode(images)
    assert x.dtype == torch.float32
    assert space.decode(x).dtype == torch.float32


@torch.inference_mode()
def test_a_decoder_draws_through_it(autoencoder, embeddings):
    decoder = ImageDecoder(model_config(autoencoder).decoder, autoencoder=autoencoder).eval()
    made = decoder.sample(embeddings, [0, 1, 2, 3], num_steps=2, guidance_scale=3.0)
    assert made.shape == (4, 3, 32, 32)
    assert torch.isfinite(made).all()


def test_an_autoencoder_of_another_width_is_refused(kl):
    config = replace(model_config(kl).decoder, channels=6)
    with pytest.raises(ModelError, match=r"4 channels.*6"):
        VaeSpace(config, kl)
    with pytest.raises(ModelError, match=r"wanted \(B, 6, h, w\)"):
        rae = build("rae")
        VaeSpace(config, rae).encode(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ModelError, match="cannot encode"):
        VaeSpace(config, torch.nn.Linear(2, 2))
    with pytest.raises(ModelError, match="needs a diffusers autoencoder"):
        ImageDecoder(config)


def test_a_saved_autoencoder_is_loaded_from_its_folder(autoencoder, images, tmp_path):
    autoencoder.save_pretrained(tmp_path / "saved")
    again = load_autoencoder(tmp_path / "saved")
    assert type(again) is type(autoencoder)
    with torch.inference_mode():
        one, two = (space_of(a).encode(images) for a in (autoencoder, again))
    assert torch.equal(one, two)


def test_what_is_no_autoencoder_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(ModelError) as caught:
        load_autoencoder(tmp_path / "nothing")
    assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(ModelError) as caught:
        load_autoencoder(tmp_path)
    assert "\n" not in str(caught.value)
