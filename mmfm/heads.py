"""The heads that a config describes: with fresh weights, or with those of a bundle."""

from __future__ import annotations

from torch import nn

from mmfm.bundle import VAE, Bundle
from mmfm.captioner.network import Captioner
from mmfm.config import ModelConfig
from mmfm.decoder.decoder import ImageDecoder
from mmfm.decoder.pixels import PixelDecoder
from mmfm.decoder.vae import load_autoencoder


def build(config: ModelConfig, autoencoder: nn.Module | None = None) -> dict[str, nn.Module]:
    """Every head of the config, by its name in MMFM; autoencoder: of a decoder in vae space."""
    heads: dict[str, nn.Module] = {}
    if config.captioner is not None:
        heads["captioner"] = Captioner(config.captioner)
    if config.pixel_decoder is not None:
        heads["pixel_decoder"] = PixelDecoder(config.pixel_decoder)
    if config.decoder is not None:
        heads["decoder"] = ImageDecoder(config.decoder, heads.get("pixel_decoder"), autoencoder)
    return heads


def read(found: Bundle) -> dict[str, nn.Module]:
    """The heads of a bundle, with their weights. Raises ModelError when it is not whole."""
    decoder = found.config.decoder
    in_vae = decoder is not None and decoder.space == "vae"
    heads = build(found.config, load_autoencoder(found.folder / VAE) if in_vae else None)
    for name, head in heads.items():
        found.fill(name, head)
    return heads
