"""What a model is made of: frozen dataclasses, presets, and their JSON form.

The backbone is described in open_clip's own words (its `model_cfg` dictionary), since open_clip
builds it and must be able to load what mmfm saves. The heads have a dataclass each. A complete
`ModelConfig` is saved beside every set of weights; unknown keys are refused on loading.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Union, get_args, get_origin, get_type_hints

from mmfm.errors import InputError

CONTRASTIVE_LOSSES = ("softmax", "sigmoid")
SPACES = ("grid", "pixel", "vae")


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """An open_clip model: `model_cfg` and `preprocess_cfg` as open_clip writes them."""

    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    loss: str = "softmax"  # the contrastive loss the weights were trained with

    def __post_init__(self) -> None:
        _one_of("loss", self.loss, CONTRASTIVE_LOSSES)

    @property
    def embed_dim(self) -> int:
        return self.model_cfg["embed_dim"]

    @property
    def image_size(self) -> int:
        size = self.model_cfg["vision_cfg"].get("image_size", 224)
        return size if isinstance(size, int) else size[0]

    @property
    def context_length(self) -> int:
        return self.model_cfg["text_cfg"].get("context_length", 77)


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig:
    """The causal transformer that writes text from a grid or a pooled vector."""

    vocab_size: int
    token_width: int  # width of the grid's tokens (E of the image tower)
    pooled_width: int  # width of the pooled vector (D)
    width: int = 192
    depth: int = 3
    num_heads: int = 3
    max_tokens: int = 32  # longest sequence, start and end included
    num_pooled_tokens: int = 4

    def __post_init__(self) -> None:
        _divides("num_heads", self.num_heads, "width", self.width)


@dataclass(frozen=True, kw_only=True)
class PixelDecoderConfig:
    """The small ViT that turns a grid of image tokens into RGB."""

    token_width: int
    grid_size: int  # tokens along one side
    patch_size: int  # pixels along one side of a token's patch
    width: int = 192
    depth: int = 3
    num_heads: int = 3

    def __post_init__(self) -> None:
        _divides("num_heads", self.num_heads, "width", self.width)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The flow-matching network and the space it works in.

    `pixel`: the picture is folded into `patch_size` x `patch_size` patches, 3 * patch_size^2
    channels. `grid`: the backbone's own tokens, `patch_size` stays 1 and the channels are E. `vae`:
    latents of a diffusers autoencoder, `patch_size` stays 1 and the channels are the latents'.
    """

    space: str
    channels: int  # channels of the map the network sees
    map_size: int  # height and width of that map
    text_width: int  # width of the text tokens
    pooled_width: int  # width of the pooled vector (D)
    patch_size: int = 1
    widths: tuple[int, ...] = (128, 256)  # channels at each level, from fine to coarse
    depths: tuple[int, ...] = (2, 2)  # residual blocks at each level, on the way down and up
    attention: tuple[bool, ...] = (False, True)  # which levels attend to themselves and the text
    head_width: int = 64
    num_pooled_tokens: int = 4
    text_depth: int = 0  # blocks in which the text tokens read each other, both ways
    shift: float = 1.7  # of the noise schedule: sqrt(dimensions / 4096), RAE (2510.11690)
    sample_latents: bool = False  # vae: training draws from the posterior; else its mode
    prediction: str = "x"  # what the network computes: the clean map, or "v", the velocity
    few_steps: int = 0  # network evaluations of the distilled mode; 0 = there is none
    few_steps_guidance: float = 4.5  # the guidance scale distilled into it
    few_steps_rank: int = 32  # of the adapter that it is

    def __post_init__(self) -> None:
        _one_of("space", self.space, SPACES)
        _one_of("prediction", self.prediction, ("x", "v"))
        if self.few_steps < 0 or self.few_steps_rank < 1:
            raise InputError(
                f"few_steps is {self.few_steps} with rank {self.few_steps_rank}; wanted at least "
                "0 and a rank of at least 1"
            )
        if not len(self.widths) == len(self.depths) == len(self.attention):
            raise InputError(
                f"widths, depths and attention must name the same levels, got {len(self.widths)}, "
                f"{len(self.depths)} and {len(self.attention)} entries"
            )
        for width in self.widths:
            _divides("head_width", self.head_width, "width", width)
        if self.text_depth:
            _divides("head_width", self.head_width, "text_width", self.text_width)
        _divides("2^(levels - 1)", 2 ** (len(self.widths) - 1), "map_size", self.map_size)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything needed to rebuild a model before its weights are read; a head may be absent."""

    name: str
    backbone: BackboneConfig
    captioner: CaptionerConfig | None = None
    pixel_decoder: PixelDecoderConfig | None = None
    decoder: DecoderConfig | None = None
    generation: dict[str, Any] = field(default_factory=dict)  # defaults of `generate`


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON types."""
    return dataclasses.asdict(config)


def from_dict(cls: type, values: Mapping[str, Any]) -> Any:
    """The inverse of `to_dict`. Raises InputError on a key the class does not know."""
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known) or sorted(known)
            raise InputError(
                f"{cls.__name__} has no setting {key!r}; the nearest are {', '.join(near)}"
            )
    parts = {
        "backbone": BackboneConfig,
        "captioner": CaptionerConfig,
        "pixel_decoder": PixelDecoderConfig,
        "decoder": DecoderConfig,
    }
    built = {}
    for key, value in values.items():
        if key in parts and cls is ModelConfig and value is not None:
            value = from_dict(parts[key], value)
        elif isinstance(value, list) and cls is DecoderConfig:
            value = tuple(value)
        built[key] = value
    return cls(**built)


def override(config: Any, pairs: Mapping[str, str]) -> Any:
    """A copy of a dataclass with `{"loop.num_steps": "200"}` applied, cast to the settings' types.

    A dot goes into a dataclass or a dict of settings. Raises InputError on an unknown name (with
    the nearest ones) or a value of the wrong type.
    """
    for path, text in pairs.items():
        config = _changed(config, path, path, text)
    return config


def _changed(config: Any, rest: str, path: str, text: str) -> Any:
    above = path[: len(path) - len(rest)]
    name, dot, below = rest.partition(".")
    if isinstance(config, dict):
        known: dict[str, Any] = {key: type(value) for key, value in config.items()}
    elif dataclasses.is_dataclass(config) and not isinstance(config, type):
        hints = get_type_hints(type(config))
        known = {f.name: hints[f.name] for f in dataclasses.fields(config)}
    else:
        raise InputError(f"{above[:-1]!r} is one value and has no setting {rest!r}")
    if name not in known:
        near = difflib.get_close_matches(name, known) or sorted(known)
        raise InputError(
            f"there is no setting {above + name!r}; the nearest are "
            f"{', '.join(above + key for key in near)}"
        )
    now = config[name] if isinstance(config, dict) else getattr(config, name)
    new = _changed(now, below, path, text) if dot else _cast(path, text, now, known[name])
    return {**config, name: new} if isinstance(config, dict) else replace(config, **{name: new})


def _cast(key: str, text: str, current: Any, hint: Any) -> Any:
    """text as a value of the type `hint`; of an optional type, "none" is None."""
    union = get_origin(hint) in (Union, types.UnionType)
    kinds = get_args(hint) if union else (hint,)
    if type(None) in kinds and text.lower() == "none":
        return None
    kinds = tuple(kind for kind in (bool, int, float, str) if kind in kinds)
    for kind in kinds:
        try:
            return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError):
            continue
    if not kinds:
        raise InputError(f"{key} cannot be set from the command line")
    wanted = " or ".join(kind.__name__ for kind in kinds)
    raise InputError(f"{key}={text!r} is not {wanted}; its value now is {current!r}")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} is {value!r}, wanted one of {', '.join(choices)}")


def _divides(name: str, divisor: int, of: str, number: int) -> None:
    if number % divisor:
        raise InputError(f"{of}={number} is not a multiple of {name}={divisor}")
