"""The open_clip adapter: any open_clip model behind two calls that return `Embeddings`.

The only file that imports open_clip. What it saves, open_clip loads (`local-dir:`), and the
embeddings are equal, since the module inside *is* open_clip's.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfm.config import BackboneConfig
from mmfm.errors import ModelError
from mmfm.preprocess.transform import Preprocess
from mmfm.shapes import Embeddings

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"


class Backbone(nn.Module):
    """Image tower and text tower of one open_clip model, and its tokenizer."""

    def __init__(self, config: BackboneConfig, towers: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.config = config
        self.towers = towers
        self.tokenizer = tokenizer
        pixels = Preprocess.from_open_clip(config.preprocess_cfg)
        for name, values in (("pixel_mean", pixels.mean), ("pixel_std", pixels.std)):
            value = 255 * torch.tensor(values)[:, None, None]
            self.register_buffer(name, value, persistent=False)  # config, not weights

    @classmethod
    def from_config(cls, config: BackboneConfig, *, device: str = "cpu") -> Backbone:
        """A backbone with fresh random weights; on the device "meta" it has shapes alone."""
        import open_clip
        from open_clip.factory import _MODEL_CONFIGS

        name = "mmfm-" + hashlib.sha256(json.dumps(config.model_cfg).encode()).hexdigest()[:12]
        _MODEL_CONFIGS[name] = config.model_cfg  # add_model_config takes only files
        with _without_warnings(), torch.device(device):
            towers = open_clip.create_model(
                name, load_weights=False, force_preprocess_cfg=config.preprocess_cfg, device=device
            )
        return cls(config, towers, open_clip.get_tokenizer(name))

    def forward(
        self, pixels: Tensor, token_ids: Tensor, length: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """What contrastive training needs of both towers, through one call that DDP, FSDP2 and
        compile can wrap: pixels (B, H, W, 3) uint8, token_ids (B, T) -> pooled, pooled, (B, D).
        """
        images = F.normalize(self.towers.encode_image(self.normalise(pixels)), dim=-1)
        return images, self.encode_texts(token_ids, length).pooled

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 -> (B, 3, H, W) as `preprocess_cfg` says, on the pixels' device."""
        return (pixels.permute(0, 3, 1, 2) - self.pixel_mean) / self.pixel_std

    def encode_images(self, images: Tensor) -> Embeddings:
        """images (B, 3, H, W), normalised as `preprocess_cfg` says -> pooled, tokens.

        Towers without a plain grid of tokens (ResNets, attention-pooled ones) give pooled alone.
        """
        if not self.gives_tokens:
            return Embeddings(F.normalize(self.towers.encode_image(images), dim=-1))
        found = self.towers.forward_intermediates(
            image=images, image_indices=1, normalize_intermediates=True, image_output_fmt="NLC"
        )
        return Embeddings(found["image_features"], found["image_intermediates"][-1])

    def text_length(self, token_ids: Tensor) -> int:
        """Tokens of the longest text, its end included, where nothing after it matters; else T."""
        return int(token_ids.argmax(dim=1).max()) + 1 if self.trims_text else token_ids.shape[1]

    def encode_texts(self, token_ids: Tensor, length: int | None = None) -> Embeddings:
        """token_ids (B, T) from `tokenize` -> pooled, tokens, mask.

        Causal towers that pool at the end-of-text token do not see what follows it, so padding
        beyond the longest text of the batch is dropped: exact, and several times faster. length:
        `text_length` of these ids where it is known already (asking a GPU for it waits for it).
        """
        if not self.trims_text:
            pooled = F.normalize(self.towers.encode_text(token_ids), dim=-1)
            return Embeddings(pooled)
        towers = self.towers
        end = token_ids.argmax(dim=1)  # the end-of-text id is the largest
        length = int(end.max()) + 1 if length is None else length
        token_ids = token_ids[:, :length]
        x = towers.token_embedding(token_ids) + towers.positional_embedding[:length]
        x = towers.transformer(x, attn_mask=towers.attn_mask[:length, :length])
        tokens = towers.ln_final(x)
        pooled = tokens[torch.arange(len(end), device=end.device), end] @ towers.text_projection
        mask = torch.arange(length, device=end.device)[None] <= end[:, None]
        return Embeddings(F.normalize(pooled, dim=-1), tokens, mask)

    @property
    def gives_tokens(self) -> bool:
        """Whether the image tower is a plain ViT, open_clip's own or timm's."""
        from open_clip.transformer import VisionTransformer

        visual = self.towers.visual
        if isinstance(visual, VisionTransformer):
            return visual.attn_pool is None
        return type(getattr(visual, "trunk", None)).__name__ in ("VisionTransformer", "Eva")

    @property
    def trims_text(self) -> bool:
        """Whether the text tower is CLIP's causal one, pooled at the end-of-text token."""
        import open_clip

        towers = self.towers
        return (
            type(towers) is open_clip.CLIP
            and towers.text_pool_type == "argmax"
            and towers.attn_mask is not None
            and isinstance(towers.text_projection, Tensor)
        )

    def tokenize(self, texts: list[str]) -> Tensor:
        """Texts -> (B, context_length) ids, padded, longer ones cut as open_clip cuts them."""
        return self.tokenizer(texts, context_length=self.config.context_length)

    @property
    def logit_scale(self) -> Tensor:
        """What cosines are multiplied with, exponentiated; capped at 100 as in CLIP."""
        return self.towers.logit_scale.exp().clamp(max=100)

    @property
    def logit_bias(self) -> Tensor | None:
        return self.towers.logit_bias

    def hash(self) -> str:
        """sha256 of config and weights: changes when any embedding could."""
        return self._digest(_canonical(self.config), lambda name: True)

    def image_hash(self) -> str:
        """sha256 of the image tower alone: changes when an image embedding could.

        Preprocessing is not in it (`Preprocess.hash`), nor are the text tower and the logit scale,
        so that image vectors outlive a change of those.
        """
        told = {k: v for k, v in self.config.model_cfg.items() if k != "text_cfg"}
        return self._digest(_json(told), lambda name: name.startswith("visual."))

    def text_hash(self) -> str:
        """sha256 of the text tower and its tokenizer's settings: as `image_hash` for texts."""
        told = {k: v for k, v in self.config.model_cfg.items() if k != "vision_cfg"}
        return self._digest(_json(told), lambda name: not name.startswith(("visual.", "logit_")))

    def _digest(self, config: str, is_part: Callable[[str], bool]) -> str:
        digest = hashlib.sha256(config.encode())
        for name, value in sorted(self.towers.state_dict().items()):
            if is_part(name):
                digest.update(name.encode())
                digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        """Write the two files that open_clip's `local-dir:` reads."""
        from safetensors.torch import save_file

        state = {
            k: v.detach().to("cpu", dtype if v.is_floating_point() else v.dtype).contiguous()
            for k, v in self.towers.state_dict().items()
        }
        save_file(state, folder / WEIGHTS_FILE)
        config = {
            "model_cfg": self.config.model_cfg,
            "preprocess_cfg": self.config.preprocess_cfg,
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")

    def load(self, folder: Path) -> None:
        """Read the weights written by `save`; names and shapes must match exactly."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = folder / WEIGHTS_FILE
        if not path.is_file():
            raise ModelError(f"{path} is missing: the bundle is incomplete, copy it again")
        try:
            self.towers.load_state_dict(load_file(path))
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise ModelError(f"{path} cannot be used ({reason}); copy the bundle again") from error


def from_open_clip(name: str) -> Backbone:
    """A published or local open_clip model: `ARCH/TAG`, `hf-hub:...` or `local-dir:...`.

    Raises ModelError when open_clip does not know it or its files cannot be had.
    """
    import open_clip

    scheme = name.startswith(("hf-hub:", "local-dir:"))
    arch, _, tag = name.partition("/")
    if not scheme and (arch, tag) not in open_clip.list_pretrained():
        near = [f"{a}/{t}" for a, t in open_clip.list_pretrained() if a == arch]
        raise ModelError(
            f"open_clip has no checkpoint {name!r}; wanted ARCH/TAG, "
            + (
                f"for {arch} one of {', '.join(near)}"
                if near
                else "see open_clip.list_pretrained()"
            )
        )
    try:
        # why require_pretrained: without weights open_clip warns and goes on with random ones
        towers = open_clip.create_model(
            name if scheme else arch, pretrained=None if scheme else tag, require_pretrained=True
        )
        tokenizer = open_clip.get_tokenizer(name if scheme else arch)
        config = open_clip.get_model_config(name if scheme else arch)
    except Exception as error:  # damaged configs and weights raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"open_clip could not load {name!r} ({reason}); check the name, or the network and "
            "HF_HUB_OFFLINE, or give a folder with local-dir:PATH"
        ) from error
    preprocess = dict(open_clip.get_model_preprocess_cfg(towers))
    if isinstance(preprocess.get("size"), int):  # one form, so that equal models have equal hashes
        preprocess["size"] = [preprocess["size"]] * 2
    loss = "softmax" if towers.logit_bias is None else "sigmoid"
    backbone_config = BackboneConfig(model_cfg=config, preprocess_cfg=preprocess, loss=loss)
    return Backbone(backbone_config, towers, tokenizer)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """open_clip warns that weights are random where random weights were asked for."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _canonical(config: BackboneConfig) -> str:
    return _json([config.model_cfg, config.preprocess_cfg])


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=list)
