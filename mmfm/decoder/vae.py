"""The space of any diffusers autoencoder: pictures <-> normalised latents.

The autoencoder is not copied into the decoder's weights: a bundle keeps it beside them, in
diffusers' own format. What belongs to the flow, mean and scale of every channel, are buffers of
the space, so that no constant lives in a loop. Before `fit` they are what the autoencoder's config
says (`scaling_factor`, `shift_factor`, `latents_mean`, `latents_std`).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfm.config import DecoderConfig
from mmfm.errors import ModelError

# why: these take and give pictures in [0, 1], and normalise latents themselves; all others that
# diffusers 0.42 has for pictures work in [-1, 1] and leave scaling to the pipeline
_SELF_NORMALISED = ("AutoencoderRAE",)


class ChannelStatistics(nn.Module):
    """mean and scale of every channel of latents (B, C, h, w), as buffers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    def fit_latents(self, latents: Tensor) -> None:
        """Set mean and scale so that each channel has mean 0 and deviation 1."""
        self.mean.copy_(latents.mean(dim=(0, 2, 3)))
        self.scale.copy_(latents.std(dim=(0, 2, 3)).clamp(min=1e-6))

    def normalise(self, latents: Tensor) -> Tensor:
        """Latents -> the map that the flow works on."""
        return (latents - self.mean[:, None, None]) / self.scale[:, None, None]

    def denormalise(self, x: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return x * self.scale[:, None, None] + self.mean[:, None, None]


class VaeSpace(ChannelStatistics):
    """images (B, 3, H, W) in [-1, 1] <-> latents (B, C, h, w), each channel normalised.

    The autoencoder is held, not owned: it is no sub-module, is never trained through this space,
    and its weights are saved in a folder of their own.
    """

    def __init__(self, config: DecoderConfig, autoencoder: nn.Module) -> None:
        super().__init__(config.channels)
        if not (hasattr(autoencoder, "encode") and hasattr(autoencoder, "decode")):
            raise ModelError(
                f"a decoder in vae space needs an autoencoder of diffusers, got "
                f"{type(autoencoder).__name__}, which cannot encode and decode"
            )
        told: Any = autoencoder.config
        names = ("vq_embed_dim", "latent_channels", "z_dim")
        channels = next((told[n] for n in names if told.get(n) is not None), None)
        if channels is not None and channels != config.channels:
            raise ModelError(
                f"the autoencoder has latents of {channels} channels, the decoder's config says "
                f"{config.channels}; use the autoencoder that the decoder was trained with"
            )
        self.sample_latents = config.sample_latents
        self.channels = config.channels
        # why a tuple: the autoencoder is saved beside the weights, not in them
        self._autoencoder = (autoencoder.requires_grad_(False).eval(),)
        mean, scale = _published_statistics(autoencoder)
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    @property
    def autoencoder(self) -> Any:
        """The diffusers model behind this space."""
        return self._autoencoder[0]

    def __deepcopy__(self, memo: dict) -> VaeSpace:
        # why: an average of the decoder's weights is a deep copy; the frozen autoencoder is shared
        copy = self.__class__.__new__(self.__class__)
        memo[id(self)] = copy
        ChannelStatistics.__init__(copy, self.channels)
        copy.load_state_dict(self.state_dict())
        copy.to(self.mean.device)
        for name in ("sample_latents", "channels", "_autoencoder", "training"):
            setattr(copy, name, getattr(self, name))
        return copy

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the autoencoder says of images: mean and deviation (B, C, h, w), not normalised.

        The deviation is None where the autoencoder is deterministic (RAE, DC, VQ, tiny ones).
        Raises ModelError when the latents do not have the config's channels.
        """
        mean, deviation = _encoded(self.autoencoder, images)
        if mean.dim() != 4 or mean.shape[1] != self.channels:
            raise ModelError(
                f"{type(self.autoencoder).__name__} gives latents of shape {tuple(mean.shape)}, "
                f"wanted (B, {self.channels}, h, w); set the decoder's channels to it"
            )
        return mean, deviation

    def latents(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, C, h, w), not normalised: the mode; or drawn, with `sample_latents` and a generator
        of the CPU.
        """
        return self.draw(*self.posterior(images), generator)

    def draw(
        self, mean: Tensor, deviation: Tensor | None, generator: torch.Generator | None = None
    ) -> Tensor:
        """A latent of what `posterior` said; the mean unless `sample_latents` and a generator."""
        if deviation is None or generator is None or not self.sample_latents:
            return mean
        return mean + deviation * torch.randn(mean.shape, generator=generator).to(mean)

    def fit(self, images: Tensor) -> None:
        """Set mean and scale of every channel from pictures (B, 3, H, W)."""
        self.fit_latents(self.latents(images))

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.normalise(self.latents(images, generator))

    def decode(self, x: Tensor) -> Tensor:
        return decode_latents(self.autoencoder, self.denormalise(x))

    def mask(self, pixels: Tensor, cell: int) -> Tensor:
        """(1, 1, H, W), 1 where it is to be drawn -> the same of the map; a latent of `cell` x
        `cell` pixels is drawn if any pixel of it is.
        """
        return F.max_pool2d(pixels, cell)


def decode_latents(autoencoder: Any, latents: Tensor) -> Tensor:
    """Pictures (B, 3, H, W), about [-1, 1], float32, of latents as the autoencoder gives them."""
    latents = latents.to(_dtype(autoencoder))
    if _reads_video(autoencoder):
        latents = latents[:, :, None]  # one frame
    images = autoencoder.decode(latents, return_dict=False)[0].float()
    images = images[:, :, 0] if images.dim() == 5 else images
    return images * 2 - 1 if _normalises_itself(autoencoder) else images


def load_autoencoder(source: str | Path) -> nn.Module:
    """A diffusers autoencoder: a folder that `save_pretrained` wrote, or a name on the hub.

    Safetensors alone are read. Raises ModelError when it cannot be had or is none.
    """
    from diffusers import AutoModel

    try:
        loaded = AutoModel.from_pretrained(
            str(source), use_safetensors=True, low_cpu_mem_usage=find_spec("accelerate") is not None
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError) as error:
        raise ModelError(
            f"{source} cannot be read as an autoencoder of diffusers "
            f"({str(error).strip().splitlines()[0]}); wanted a folder with config.json and "
            "safetensors weights"
        ) from error
    return loaded.eval()


def latent_shape(autoencoder: nn.Module, image_size: int) -> tuple[int, int, int]:
    """(C, h, w) of the latents of square pictures, found by encoding one: what `DecoderConfig`
    needs as `channels` and `map_size`.
    """
    mean, _ = _encoded(autoencoder, torch.zeros(1, 3, image_size, image_size))
    return tuple(mean.shape[1:])


@torch.no_grad()
def _encoded(autoencoder: Any, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mean and deviation, if it has one, of the latents of images in [-1, 1]; float32."""
    images = images / 2 + 0.5 if _normalises_itself(autoencoder) else images
    images = images.to(_dtype(autoencoder))
    if _reads_video(autoencoder):
        images = images[:, :, None]  # one frame
    said = autoencoder.encode(images)
    if "latent_dist" in said:
        mean, deviation = said.latent_dist.mode(), said.latent_dist.std
    else:
        mean, deviation = said["latent" if "latent" in said else "latents"], None
    first = [x if x is None or x.dim() < 5 else x[:, :, 0] for x in (mean, deviation)]
    mean, deviation = (x if x is None else x.float() for x in first)
    return mean, deviation


def _published_statistics(autoencoder: Any) -> tuple[Tensor, Tensor]:
    """Mean and scale that the autoencoder's config names: (latents - mean) / scale."""
    told = {} if _normalises_itself(autoencoder) else autoencoder.config
    mean = told.get("latents_mean") or told.get("shift_factor") or 0.0
    deviation = told.get("latents_std") or 1.0
    factor = told.get("scaling_factor") or 1.0
    return torch.as_tensor(mean).float(), torch.as_tensor(deviation).float() / factor


def _normalises_itself(autoencoder: nn.Module) -> bool:
    return type(autoencoder).__name__ in _SELF_NORMALISED


def _reads_video(autoencoder: nn.Module) -> bool:
    """Whether it takes (B, 3, frames, H, W), as the image models with a video codec do."""
    return any(isinstance(part, nn.Conv3d) for part in autoencoder.modules())


def _dtype(autoencoder: nn.Module) -> torch.dtype:
    return next(iter(autoencoder.parameters())).dtype
