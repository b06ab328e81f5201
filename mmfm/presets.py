"""Named model shapes: `mini` (shipped), `tiny` (tests)."""

from __future__ import annotations

from mmfm.config import (
    BackboneConfig,
    CaptionerConfig,
    DecoderConfig,
    ModelConfig,
    PixelDecoderConfig,
)
from mmfm.errors import ModelError

# what open_clip's transforms do to a picture; drawings are square, so the crop cuts nothing
_PREPROCESS = {
    "mode": "RGB", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0,
}  # fmt: skip


def mini(caption_vocab_size: int = 514, space: str = "grid") -> ModelConfig:
    """The shipped model: 64 px, 16 image tokens of width 256, sized for two CPU cores.

    CLIP's own vocabulary is kept so that open_clip tokenizes for the bundle without help; at
    width 128 its 49,408 rows cost 12.6 MB of the bundle.
    """
    return _build("mini", space, caption_vocab_size, image_size=64, patch_size=16, vision_width=256,
                  vision_depth=6, text_width=128, text_depth=4, embed_dim=192, context_length=32,
                  head_width=64, caption_width=192)  # fmt: skip


def tiny(caption_vocab_size: int = 514, space: str = "pixel") -> ModelConfig:
    """The smallest model with every part, for tests: 32 px, width 32."""
    return _build("tiny", space, caption_vocab_size, image_size=32, patch_size=8, vision_width=32,
                  vision_depth=2, text_width=32, text_depth=2, embed_dim=32, context_length=16,
                  head_width=16, caption_width=32)  # fmt: skip


PRESETS = {"mini": mini, "tiny": tiny}


def preset(name: str, **settings) -> ModelConfig:
    """The config called `name`. Raises ModelError on an unknown name."""
    if name not in PRESETS:
        raise ModelError(f"there is no preset {name!r}; wanted one of {', '.join(PRESETS)}")
    return PRESETS[name](**settings)


def _build(
    name: str, space: str, vocab: int, *, image_size: int, patch_size: int, vision_width: int,
    vision_depth: int, text_width: int, text_depth: int, embed_dim: int, context_length: int,
    head_width: int, caption_width: int,
) -> ModelConfig:  # fmt: skip
    grid_size = image_size // patch_size
    backbone = BackboneConfig(
        model_cfg={
            "embed_dim": embed_dim,
            "vision_cfg": {
                "image_size": image_size, "patch_size": patch_size, "width": vision_width,
                "layers": vision_depth, "head_width": head_width, "pool_type": "avg",
                "pos_embed_type": "sin_cos_2d", "no_ln_pre": True,
            },
            "text_cfg": {
                "context_length": context_length, "vocab_size": 49408, "width": text_width,
                "heads": text_width // head_width, "layers": text_depth,
            },
        },
        preprocess_cfg={"size": [image_size, image_size], **_PREPROCESS},
        loss="softmax",
    )  # fmt: skip
    return ModelConfig(
        name=name,
        backbone=backbone,
        captioner=CaptionerConfig(
            vocab_size=vocab, token_width=vision_width, pooled_width=embed_dim,
            width=caption_width, depth=3, num_heads=caption_width // head_width,
        ),
        pixel_decoder=PixelDecoderConfig(
            token_width=vision_width, grid_size=grid_size, patch_size=patch_size,
            width=vision_width, depth=2, num_heads=vision_width // head_width,
        ),
        decoder=_decoder(space, image_size, grid_size, vision_width, text_width, embed_dim,
                         head_width),
        generation={"num_steps": 25, "guidance_scale": 4.5},
    )  # fmt: skip


def _decoder(
    space: str, image_size: int, grid_size: int, token_width: int, text_width: int,
    embed_dim: int, head_width: int,
) -> DecoderConfig:  # fmt: skip
    if space == "grid":
        return DecoderConfig(
            space="grid", channels=token_width, map_size=grid_size, text_width=text_width,
            pooled_width=embed_dim, widths=(token_width,), depths=(2,), attention=(True,),
            head_width=head_width, text_depth=2, shift=3.0,
        )  # fmt: skip
    patch = image_size // (2 * grid_size)
    return DecoderConfig(
        space="pixel", channels=3 * patch * patch, map_size=2 * grid_size, patch_size=patch,
        text_width=text_width, pooled_width=embed_dim,
        widths=(3 * token_width // 4 // head_width * head_width, token_width),
        depths=(1, 2), attention=(False, True), head_width=head_width, shift=1.7,
    )  # fmt: skip
