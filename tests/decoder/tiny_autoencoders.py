"""Autoencoders of diffusers, real and tiny, for pictures of 32 px; weights are random."""

from dataclasses import replace

import torch
from diffusers import AutoencoderKL, AutoencoderKLQwenImage, AutoencoderRAE, AutoencoderTiny

from mmfm.decoder.vae import latent_shape
from mmfm.presets import preset


def kl():
    """Stable Diffusion's kind: 4 x 8 x 8, with a posterior, a scale and a shift."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16), norm_num_groups=4, latent_channels=4, sample_size=32,
        scaling_factor=0.5, shift_factor=0.1,
    )  # fmt: skip


def rae():
    """A representation autoencoder: 64 x 4 x 4; pictures in [0, 1], latents normalised inside."""
    return AutoencoderRAE(
        encoder_type="mae", encoder_hidden_size=64, encoder_patch_size=8,
        encoder_num_hidden_layers=1, decoder_hidden_size=32, decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2, decoder_intermediate_size=64, patch_size=8,
        encoder_input_size=32, latents_mean=torch.full((64, 4, 4), 0.3),
        latents_std=torch.full((64, 4, 4), 0.5),
    )  # fmt: skip


def deterministic():
    """The tiny autoencoders that preview Stable Diffusion: 4 x 4 x 4."""
    return AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)


def video():
    """An image model's codec that reads films: 4 x 4 x 4, statistics per channel."""
    return AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True], latents_mean=[0.1, 0.2, 0.3, 0.4],
        latents_std=[2.0, 1.0, 1.0, 1.0],
    )  # fmt: skip


KINDS = {"kl": kl, "rae": rae, "deterministic": deterministic, "video": video}


def build(kind, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return KINDS[kind]().eval()


def model_config(autoencoder, **settings):
    """The tiny model with a decoder in the space of this autoencoder."""
    tiny = preset("tiny")
    channels, size, _ = latent_shape(autoencoder, 32)
    decoder = replace(
        tiny.decoder, space="vae", channels=channels, map_size=size, patch_size=1, **settings
    )
    return replace(tiny, name="tiny-vae", decoder=decoder)
