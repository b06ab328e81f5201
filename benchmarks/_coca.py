"""A CoCa of random weights, and how open_clip writes with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def config(width: int, layers: int) -> dict[str, Any]:
    """In open_clip's words; coca_ViT-B-32 has width 512 and 12 layers. The image tower is small:
    both sides begin at the same picture, and its tokens are not what is measured.
    """
    text = {"context_length": 77, "vocab_size": 49408, "width": width, "heads": width // 64,
            "layers": layers}  # fmt: skip
    return {
        "embed_dim": width,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 64, "patch_size": 16, "width": 64, "layers": 1, "head_width": 64,
            "attentional_pool": True, "attn_pooler_heads": 1, "output_tokens": True,
        },
        "text_cfg": {**text, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": text,
    }  # fmt: skip


def generate(towers: Any, images: Tensor, start: int, tokens: int) -> Tensor:
    """(B, 1 + tokens) ids, the start first: greedy, by the calls that open_clip's `generate` makes.

    `generate` itself needs classes that transformers 5 no longer has, and refuses. Its loop encodes
    the picture once and then calls the model with the whole text for every token; so does this,
    without the processors of logits between them, which only cost it time.
    """
    with torch.inference_mode():
        latent, embedded = towers._encode_image(images)
        ids = torch.full((len(images), 1), start)
        for _ in range(tokens):
            logits = towers(
                images, ids, image_latent=latent, image_embs=embedded, output_labels=False
            )["logits"][:, -1]
            ids = torch.cat([ids, logits.argmax(dim=-1, keepdim=True)], dim=1)
    return ids
