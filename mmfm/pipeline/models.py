"""The parts of a pipeline: mmfm's own modules as models of diffusers, which save themselves.

Each is built from its config, or around a module that is there already.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from mmfm.config import BackboneConfig, DecoderConfig, PixelDecoderConfig, from_dict
from mmfm.decoder.network import Condition, FlowNetwork
from mmfm.decoder.pixels import PixelDecoder
from mmfm.decoder.spaces import GridSpace, PixelSpace
from mmfm.decoder.vae import ChannelStatistics
from mmfm.encoders.architectures import NoTokenizer, tokenizer
from mmfm.encoders.backbone import Backbone
from mmfm.preprocess.text import check_texts, truncate_check
from mmfm.shapes import Embeddings


class Part(ModelMixin, ConfigMixin):
    """A model of diffusers in one precision, whatever it is loaded in."""

    @classmethod
    def from_pretrained(cls, folder: Any, **kwargs: Any) -> Any:
        """As every model of diffusers.

        why: buffers that are not saved, positions say, would stay in single precision.
        """
        made = super().from_pretrained(folder, **kwargs)
        return nn.Module.to(made, made.dtype)


class BackboneModel(Part):
    """Both towers and the tokenizer: texts or pictures in, `Embeddings` out."""

    ignore_for_config = ["backbone"]  # noqa: RUF012  the names are diffusers'

    @register_to_config
    def __init__(
        self, model_cfg: dict, preprocess_cfg: dict, loss: str = "softmax",
        backbone: Backbone | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        config = BackboneConfig(model_cfg=model_cfg, preprocess_cfg=preprocess_cfg, loss=loss)
        self.backbone = Backbone.from_config(config) if backbone is None else backbone

    def forward(self, texts: str | Sequence[str]) -> Embeddings:
        """What the text tower says. Raises TextError on what is no text; warns where it is cut."""
        texts = check_texts(texts)
        length = self.backbone.config.context_length
        if hasattr(self.backbone.tokenizer, "decode"):
            truncate_check(self.backbone.tokenizer, texts, length)
        return self.backbone.encode_texts(self.backbone.tokenize(texts).to(self.device))

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As every model of diffusers; a tokenizer of Hugging Face lies beside the weights."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if hasattr(self.backbone.tokenizer, "save_pretrained"):
            self.backbone.tokenizer.save_pretrained(str(save_directory))

    @classmethod
    def from_pretrained(cls, folder: Any, **kwargs: Any) -> BackboneModel:
        """As every model of diffusers.

        why low_cpu_mem_usage is off: open_clip moves what it builds to a device, which tensors
        without data cannot do.
        """
        kwargs.update(low_cpu_mem_usage=False, device_map=None)
        made = super().from_pretrained(folder, **kwargs)
        if isinstance(made.backbone.tokenizer, NoTokenizer) and Path(folder).is_dir():
            made.backbone.tokenizer = tokenizer(made.backbone.config.model_cfg, Path(folder))
        return made


class FlowModel(Part):
    """The flow network: maps x_t (B, C, h, w), flow times t (B,) and a condition -> clean maps."""

    ignore_for_config = ["network"]  # noqa: RUF012

    @register_to_config
    def __init__(self, decoder: dict, network: FlowNetwork | None = None) -> None:
        super().__init__()
        told = from_dict(DecoderConfig, decoder)
        self.network = FlowNetwork(told) if network is None else network

    @apply_forward_hook
    def condition(
        self, said: Embeddings, text_open: Tensor | None, pooled_open: Tensor
    ) -> Condition:
        """What the network is told of texts and vectors; the ports are (B,) bool."""
        tokens = None if said.tokens is None else said.tokens.to(self.dtype)
        said = Embeddings(said.pooled.to(self.dtype), tokens, said.mask)
        return self.network.conditioner(said, text_open, pooled_open)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.network(x_t.to(self.dtype), t, condition).float()


class SpaceModel(Part):
    """Maps (B, C, h, w) -> pictures (B, 3, H, W), about [-1, 1]; in vae space, its latents."""

    ignore_for_config = ["space", "pixels"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self, decoder: dict, pixel_decoder: dict | None = None, space: nn.Module | None = None,
        pixels: PixelDecoder | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        told = from_dict(DecoderConfig, decoder)
        if pixels is None and pixel_decoder is not None:
            pixels = PixelDecoder(from_dict(PixelDecoderConfig, pixel_decoder))
        self.pixels = pixels
        if space is None and told.space == "pixel":
            space = PixelSpace(told)
        elif space is None and told.space == "grid":
            assert pixels is not None
            space = GridSpace(told, pixels)
        self.space = ChannelStatistics(told.channels) if space is None else space
        # why: accelerate looks for the device of a module in its first parameter, and a space may
        # have statistics alone
        here = next(iter(self.space.buffers())).new_zeros(0)
        self.here = nn.Parameter(here, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        inverse = getattr(self.space, "denormalise", None) or self.space.decode
        return inverse(x.to(self.dtype)).float()
