"""What one tower costs: parameters, floating-point operations, bytes kept for the backward pass.

Closed formulas of open_clip's own ViT and CLIP text transformer, read off its `model_cfg`, so that
a plan needs neither torch nor the memory of the model. n tokens of width W, MLP of width M, h
heads, embedding width D; a multiply and an add are two operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmfm.errors import ModelError

_VISION = {  # what the formulas know of open_clip's CLIPVisionCfg: key -> its default there
    "layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16,
    "image_size": 224, "ls_init_value": None, "patch_dropout": 0.0, "no_ln_pre": False,
    "pool_type": "tok", "final_ln_after_pool": False, "output_tokens": False,
}  # fmt: skip
_TEXT = {  # the same of CLIPTextCfg
    "context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12,
    "mlp_ratio": 4.0, "ls_init_value": None, "no_causal_mask": False, "pool_type": "argmax",
    "proj_bias": False, "output_tokens": False,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TowerCost:
    """One transformer tower; every figure that is not a count of parameters is of one sample."""

    layers: int
    width: int
    mlp_width: int
    heads: int
    tokens: int  # that pass through the blocks in training, after patch dropout
    embed_dim: int  # D
    outside: int  # parameters that are not in a block
    scaled: bool  # each block has two LayerScales
    patch_flops: float  # of the patch embedding: it has no gradient towards the pixels
    input_values: int  # saved at the entrance: pixels of a picture, or nothing
    kept_outside: int  # saved values of width W per token, outside the blocks

    @property
    def block_parameters(self) -> int:
        """Two norms, fused q k v, output, MLP; all linear layers have a bias."""
        w, m = self.width, self.mlp_width
        norms = 4 * w + (2 * w if self.scaled else 0)
        return norms + (3 * w * w + 3 * w) + (w * w + w) + (w * m + m) + (m * w + w)

    @property
    def parameters(self) -> int:
        return self.outside + self.layers * self.block_parameters

    @property
    def linear_flops(self) -> float:
        """Blocks' matrix products with weights, forward: 2 n (4 W^2 + 2 W M) a block."""
        w = self.width
        return self.layers * 2.0 * self.tokens * (4 * w * w + 2 * w * self.mlp_width)

    @property
    def attention_flops(self) -> float:
        """Scores and weighted sums, forward: 4 n^2 W a block; a causal mask saves nothing here."""
        return self.layers * 4.0 * self.tokens**2 * self.width

    @property
    def forward_flops(self) -> float:
        head = 2.0 * self.width * self.embed_dim
        return self.patch_flops + self.linear_flops + self.attention_flops + head

    def training_flops(self, checkpointed: bool = False) -> float:
        """Forward and backward of one sample.

        A linear layer's backward costs twice its forward, the patch embedding's once (pixels have
        no gradient), attention's 2.5 times (five products; flash attention, 2205.14135). Activation
        checkpointing runs the blocks forward once more, up to the last output that is needed: a
        LayerScale needs that of the MLP's last layer.
        """
        head = 2.0 * self.width * self.embed_dim
        again = 0.0
        if checkpointed:
            again = self.linear_flops + self.attention_flops
            if not self.scaled:
                again -= self.layers * 2.0 * self.tokens * self.width * self.mlp_width
        backward = self.patch_flops + 2 * (self.linear_flops + head) + 2.5 * self.attention_flops
        return self.forward_flops + backward + again

    def saved_bytes(self, half: bool = False, checkpointed: bool = False) -> float:
        """Bytes that autograd keeps of one sample.

        A block keeps, per token: two norm inputs, q k v, the output of attention, two norm outputs
        (6 W + 2 W), and the MLP before and after its GELU (2 M); attention keeps one number a
        head, a norm two. half: bf16 autocast, under which CUDA's norms read and keep float32.
        With checkpointing a block keeps its input alone, and one block at a time the rest.
        """
        value, n, w = (2 if half else 4), self.tokens, self.width
        norm_inputs, statistics = 2 * w * 4.0, 4 * 4.0
        block = n * (norm_inputs + value * (6 * w + 2 * self.mlp_width) + statistics)
        block += n * self.heads * 4.0
        if checkpointed:
            blocks = self.layers * n * w * 4.0 + (block if self.layers else 0)
        else:
            blocks = self.layers * block
        return blocks + self.kept_outside * n * w * 4.0 + self.input_values * 4.0


def image_tower(model_cfg: Mapping[str, Any]) -> TowerCost:
    """The cost of `model_cfg["vision_cfg"]`. Raises ModelError for what is no plain ViT."""
    cfg = _known(model_cfg.get("vision_cfg", {}), _VISION, "vision_cfg")
    size, patch, width = cfg["image_size"], cfg["patch_size"], cfg["width"]
    if not all(isinstance(x, int) for x in (size, patch, cfg["layers"])):
        raise ModelError(
            f"the calculator knows square pictures and one stack of blocks; got image_size={size}, "
            f"patch_size={patch}, layers={cfg['layers']}"
        )
    patches = (size // patch) ** 2
    kept = patches
    if cfg["patch_dropout"] > 0:  # as open_clip's PatchDropout rounds
        kept = max(1, int(patches * (1 - cfg["patch_dropout"])))
    norm_pre = 0 if cfg["no_ln_pre"] else 1
    return TowerCost(
        layers=cfg["layers"], width=width, mlp_width=int(width * cfg["mlp_ratio"]),
        heads=width // cfg["head_width"], tokens=kept + 1, embed_dim=model_cfg["embed_dim"],
        outside=3 * patch * patch * width + width + (patches + 1) * width
        + 2 * width * (1 + norm_pre) + width * model_cfg["embed_dim"],
        scaled=cfg["ls_init_value"] is not None,
        patch_flops=2.0 * 3 * patch * patch * width * patches,
        input_values=3 * size * size,
        kept_outside=norm_pre + 2,  # norms before and after, and what is pooled
    )  # fmt: skip


def text_tower(model_cfg: Mapping[str, Any], tokens: int | None = None) -> TowerCost:
    """The cost of `model_cfg["text_cfg"]` for texts of `tokens` (default: the context length).

    Raises ModelError for what is not CLIP's own text transformer.
    """
    cfg = _known(model_cfg.get("text_cfg", {}), _TEXT, "text_cfg")
    if model_cfg.get("custom_text") or model_cfg.get("multimodal_cfg"):
        raise ModelError("the calculator knows CLIP's own text tower; got custom_text or CoCa")
    width, dim = cfg["width"], model_cfg["embed_dim"]
    return TowerCost(
        layers=cfg["layers"], width=width, mlp_width=int(width * cfg["mlp_ratio"]),
        heads=cfg["heads"], tokens=min(tokens or cfg["context_length"], cfg["context_length"]),
        embed_dim=dim,
        outside=cfg["vocab_size"] * width + cfg["context_length"] * width + 2 * width
        + width * dim + (dim if cfg["proj_bias"] else 0),
        scaled=cfg["ls_init_value"] is not None,
        patch_flops=0.0, input_values=0, kept_outside=1,
    )  # fmt: skip


def scalar_parameters(model_cfg: Mapping[str, Any]) -> int:
    """The scale of the logits, and their bias where there is one."""
    return 1 if model_cfg.get("init_logit_bias") is None else 2


def _known(given: Mapping[str, Any], defaults: dict[str, Any], name: str) -> dict[str, Any]:
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        raise ModelError(
            f"the calculator has no formula for {name} with {', '.join(unknown)}; it knows "
            "open_clip's own ViT and CLIP text transformer"
        )
    return {**defaults, **given}
