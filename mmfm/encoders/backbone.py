"""The open_clip adapter: any open_clip model behind two calls that return `Embeddings`.

What it saves, open_clip loads (`local-dir:`), and the embeddings are equal, since the module inside
*is* open_clip's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfm.config import BackboneConfig
from mmfm.encoders import architectures, weights
from mmfm.encoders.architectures import CONFIG_FILE, WEIGHTS_FILE
from mmfm.encoders.towers import see, shows_tokens, text_tower
from mmfm.encoders.whole_folder import whole_folder
from mmfm.errors import ModelError
from mmfm.layers.plain import plain
from mmfm.preprocess.transform import Preprocess
from mmfm.shapes import Embeddings


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
        towers, _ = architectures.build(config.model_cfg, config.preprocess_cfg, device)
        return cls(config, towers, architectures.tokenizer(config.model_cfg))

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
        """images (B, 3, H, W), normalised as `preprocess_cfg` says -> pooled, patch tokens.

        The tokens are open_clip's (`towers.py`), row by row; None where the tower shows none.
        """
        if not self.gives_tokens:
            return Embeddings(F.normalize(self.towers.encode_image(images), dim=-1))
        features, tokens = see(self.towers.visual, images)
        return Embeddings(F.normalize(features, dim=-1), tokens)

    def text_length(self, token_ids: Tensor) -> int:
        """Tokens of the longest text that matter to a vector, where padding does not; else T."""
        return text_tower(self.towers).length(token_ids)

    def encode_texts(self, token_ids: Tensor, length: int | None = None) -> Embeddings:
        """token_ids (B, T) from `tokenize` -> pooled, tokens, mask.

        Where padding cannot reach the vector (`trims_text`), what lies beyond the longest text of
        the batch is dropped: exact, and several times faster. length: `text_length` of these ids
        where it is known already (asking a GPU for it waits for it). mask: True up to the end of a
        text; None where the tower reads padding as text and the tokenizer does not tell it apart.
        """
        features, tokens, mask = text_tower(self.towers).read(token_ids, length)
        if mask is None:
            mask = self._words(token_ids)
        return Embeddings(F.normalize(features, dim=-1), tokens, mask)

    def _words(self, ids: Tensor) -> Tensor | None:
        """(B, T) True where the tokenizer put no padding; an end token that also pads ends it."""
        told: Any = getattr(self.tokenizer, "tokenizer", None)
        padding = getattr(told, "pad_token_id", None)
        if padding is None:
            return None
        words = ids != padding
        if padding == told.eos_token_id:
            words = words | words.roll(1, dims=1)
            words[:, 0] = True
        return words

    @property
    def gives_tokens(self) -> bool:
        """Whether the image tower shows its patches."""
        return shows_tokens(self.towers.visual)

    @property
    def trims_text(self) -> bool:
        """Whether padding behind a text cannot reach its vector, so that it is left out."""
        return text_tower(self.towers).trims

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
        for name, value in sorted(plain(self.towers).state_dict().items()):
            if is_part(name):
                digest.update(name.encode())
                digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        """Write what open_clip's `local-dir:` reads: config, weights, a Hugging Face tokenizer."""
        from safetensors.torch import save_file

        state = {
            k: v.detach().to("cpu", dtype if v.is_floating_point() else v.dtype).contiguous()
            for k, v in plain(self.towers).state_dict().items()
        }
        save_file(state, folder / WEIGHTS_FILE)
        config = {
            "model_cfg": self.config.model_cfg,
            "preprocess_cfg": self.config.preprocess_cfg,
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        if hasattr(self.tokenizer, "save_pretrained"):
            self.tokenizer.save_pretrained(str(folder))

    def export(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """`save` into a new folder, which is there whole or not at all.

        Raises OutputError when it cannot be written or holds something.
        """
        with whole_folder(folder) as aside:
            self.save(aside, dtype)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; names and shapes must match exactly, else ModelError."""
        path = folder / WEIGHTS_FILE
        if not path.is_file():
            raise ModelError(f"{path} is missing: the bundle is incomplete, copy it again")
        weights.fill(self.towers, path)
        if isinstance(self.tokenizer, architectures.NoTokenizer):
            self.tokenizer = architectures.tokenizer(self.config.model_cfg, folder)


def _canonical(config: BackboneConfig) -> str:
    return _json([config.model_cfg, config.preprocess_cfg])


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=list)
