"""Every family of towers that open_clip builds, seen alike: the vector of each, and its tokens.

Image towers: open_clip's ViT (class token, average or attention pooling), its ResNet, and what
timm has (ViT, Eva, ConvNeXt, FastViT, Swin...). Text towers: open_clip's transformer inside CLIP,
CustomTextCLIP or CoCa, and those of Hugging Face. They are told apart by what they are made of, so
that open_clip itself is not needed here.

Tokens are those of the last block after the tower's last norm, as open_clip's own
`forward_intermediates(..., indices=1, normalize_intermediates=True)` has them: patches row by row,
without class tokens, and words. Attention-pooled ViTs (CoCa) have no norm for patches; they come
as the last block leaves them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

# how a text becomes one vector: at its end token, which nothing after it can change if causal
_AT_THE_END = ("argmax", "eos")


def shows_tokens(visual: nn.Module) -> bool:
    """Whether `see` can read patch tokens of it, as of all that open_clip lists."""
    return hasattr(_trunk(visual), "forward_intermediates")


def see(visual: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """images (B, 3, H, W) -> features (B, D), not of unit length, and patch tokens (B, N, E).

    For towers that show their patches (`shows_tokens`).
    """
    trunk = _trunk(visual)
    pooled_by_attention = getattr(visual, "attn_pool", None) is not None
    found = visual.forward_intermediates(
        images,
        indices=1,
        normalize_intermediates=not pooled_by_attention,
        output_fmt="NLC" if _is_transformer(trunk) else "NCHW",
    )
    tokens = found["image_intermediates"][-1]
    if tokens.dim() == 4:
        tokens = tokens.flatten(2).transpose(1, 2)
    return found["image_features"], tokens


def _trunk(visual: nn.Module) -> nn.Module:
    return getattr(visual, "trunk", visual)  # timm's network inside open_clip's adapter


def _is_transformer(trunk: nn.Module) -> bool:
    """Whether it works on a sequence of tokens with class tokens in front, as ViTs do."""
    return hasattr(trunk, "class_embedding") or hasattr(trunk, "num_prefix_tokens")


class TextTower(Protocol):
    """What is asked of a text tower."""

    @property
    def trims(self) -> bool:
        """Whether padding cannot reach the vector, so that it may be left out: exact."""

    def length(self, ids: Tensor) -> int:
        """Tokens of the longest text of ids (B, T) as far as they matter to any vector."""

    def read(self, ids: Tensor, length: int | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """ids (B, T) -> features (B, D), not of unit length, word tokens (B, L, E), mask (B, L).

        mask: True up to the end of a text, or None where ids alone do not say where that is.
        length: `length(ids)` where it is known; what lies beyond is not computed.
        """


def text_tower(towers: nn.Module) -> TextTower:
    """The text tower of a model, whichever kind it is; it holds no weights of its own."""
    tower: Any = getattr(towers, "text", towers)  # CLIP holds the parts of its text tower itself
    if hasattr(tower, "token_embedding"):
        return OpenClipText.of(tower)
    return HuggingFaceText(tower)


@dataclass(frozen=True)
class OpenClipText:
    """open_clip's text transformer, in parts."""

    token_embedding: nn.Module  # ids (B, T) -> (B, T, E)
    positions: Tensor  # (context length, E); one more with a class token
    transformer: nn.Module
    norm: nn.Module
    projection: Tensor | nn.Module | None
    causal_mask: Tensor | None  # additive, (context length)^2; None: sees everything
    pool: str  # argmax, eos, first, last, none
    eos_id: int  # for the pool "eos"
    pad_id: int
    class_token: Tensor | None  # (E,), put behind the text, pooled instead of any token (CoCa)
    heads: int

    @classmethod
    def of(cls, tower: Any) -> OpenClipText:
        """From a CLIP, or from a TextTransformer."""
        return cls(
            token_embedding=tower.token_embedding,
            positions=tower.positional_embedding,
            transformer=tower.transformer,
            norm=tower.ln_final,
            projection=tower.text_projection,
            causal_mask=tower.attn_mask,
            pool=tower.text_pool_type if hasattr(tower, "text_pool_type") else tower.pool_type,
            eos_id=tower.text_eos_id if hasattr(tower, "text_eos_id") else tower.eos_id,
            pad_id=getattr(tower, "pad_id", 0),
            class_token=getattr(tower, "cls_emb", None),
            heads=tower.transformer.resblocks[0].attn.num_heads,
        )

    @property
    def trims(self) -> bool:
        if self.causal_mask is None:
            return False
        return self.class_token is not None or self.pool in _AT_THE_END

    def ends(self, ids: Tensor) -> Tensor:
        """(B,) where each text ends: the place of its end token, which is the largest id or eos."""
        if self.class_token is not None:  # padding is told by its id, as the tower itself does
            return ((ids != self.pad_id).cumsum(dim=1)).argmax(dim=1)
        if self.pool == "eos":
            return (ids == self.eos_id).int().argmax(dim=1)
        return ids.argmax(dim=1)

    def length(self, ids: Tensor) -> int:
        if not self.trims:
            return ids.shape[1]
        # why one more: CoCa's mask is shifted by one, so its class token sees one token of padding
        more = 1 if self.class_token is None else 2
        return min(ids.shape[1], int(self.ends(ids).max()) + more)

    def read(self, ids: Tensor, length: int | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        total = ids.shape[1]
        ends = self.ends(ids) if self.knows_ends else None
        ids = ids[:, : self.length(ids) if length is None else length]
        count = ids.shape[1]
        x, places = self.token_embedding(ids), self.positions[:count]
        if self.class_token is not None:
            x = torch.cat([x, self.class_token.expand(x.shape[0], 1, -1)], dim=1)
            places = torch.cat([places, self.positions[total : total + 1]])  # not moved by trimming
        x = self.transformer(x + places, attn_mask=self._mask(ids))
        tokens = self.norm(x)
        if ends is None:
            return self.project(self._pooled(tokens)), tokens, None
        mask = torch.arange(count, device=ids.device)[None] <= ends[:, None]
        if self.class_token is not None:
            return self.project(tokens[:, -1]), tokens[:, :-1], mask
        rows = torch.arange(ids.shape[0], device=ids.device)
        return self.project(tokens[rows, ends]), tokens, mask

    @property
    def knows_ends(self) -> bool:
        """Whether the ids alone say where a text ends."""
        return self.class_token is not None or self.pool in _AT_THE_END

    def _mask(self, ids: Tensor) -> Tensor | None:
        if self.class_token is None:
            count = ids.shape[1]
            return None if self.causal_mask is None else self.causal_mask[:count, :count]
        # CoCa: nobody looks at padding, told one place too late (the published weights learned so)
        seen = torch.cat([torch.ones_like(ids[:, :1], dtype=torch.bool), ids != self.pad_id], dim=1)
        rows, count = seen.shape
        mask = torch.zeros(rows, count, count, dtype=self.positions.dtype, device=ids.device)
        mask = mask.masked_fill(~seen[:, None], float("-inf"))
        if self.causal_mask is not None:
            mask = mask + self.causal_mask[:count, :count]
        return mask.repeat_interleave(self.heads, dim=0)

    def _pooled(self, tokens: Tensor) -> Tensor:
        return {"first": tokens[:, 0], "last": tokens[:, -1]}.get(self.pool, tokens)

    def project(self, pooled: Tensor) -> Tensor:
        """(B, E) -> (B, D)."""
        if self.projection is None:
            return pooled
        if isinstance(self.projection, nn.Module):
            return self.projection(pooled)
        return pooled @ self.projection


@dataclass(frozen=True)
class HuggingFaceText:
    """A text tower of Hugging Face in open_clip's adapter; it attends to no padding."""

    tower: Any

    @property
    def trims(self) -> bool:
        return True

    def length(self, ids: Tensor) -> int:
        return int(self._words(ids).any(dim=0).nonzero().max()) + 1

    def read(self, ids: Tensor, length: int | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        ids = ids[:, : self.length(ids) if length is None else length]
        words = self._words(ids)
        said = self.tower.transformer(input_ids=ids, attention_mask=words.long())
        features = self.tower.proj(self.tower.pooler(said, words.long()))
        return features, said.last_hidden_state, words

    def _words(self, ids: Tensor) -> Tensor:
        return ids != self.tower.config.pad_token_id
