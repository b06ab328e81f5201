"""open_clip's CoCa as a caption head: its own decoder, one cached step at a time.

CoCa (Yu et al., arXiv:2205.01917) writes with its text tower (causal, no picture) followed by a
decoder whose blocks alternate between the text and the picture. open_clip's `generate` has no
cache: it computes the whole text again for every token, through transformers' classes. The weights
are used as they are; what is here reads them out of the modules and needs open_clip for nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfm.captioner.stepper import (
    Affine,
    Own,
    Picture,
    Place,
    Program,
    Stepper,
    Think,
    along,
    head_scale,
    places,
)
from mmfm.captioner.vocabulary import Tokenizer, Vocabulary
from mmfm.errors import InputError, ModelError
from mmfm.layers.plain import plain
from mmfm.shapes import Embeddings


class WholeVocabulary(Vocabulary):
    """Every token of a tokenizer under its own id; start and end are the tokenizer's."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(range(len(tokenizer.decoder)), tokenizer)
        marks: Any = tokenizer
        self.start_id, self.end_id = int(marks.sot_token_id), int(marks.eot_token_id)
        self.pad_id = self.end_id

    def __len__(self) -> int:
        return len(self.token_ids)

    def decode(self, local_ids: Any) -> str:
        return super().decode(i for i in local_ids if i not in (self.start_id, self.end_id))


class CoCaHead:
    """The face of a `Captioner` over the towers of a CoCa, which stay the backbone's own."""

    def __init__(self, towers: Any) -> None:
        self.towers = towers
        self._program: Program | None = None
        blocks = [*towers.text.transformer.resblocks, *towers.text_decoder.resblocks]
        kinds = {(block.attn.embed_dim, block.attn.num_heads) for block in blocks}
        if len(kinds) != 1 or towers.text.attn_mask is None:
            raise ModelError(
                f"this CoCa's text tower and decoder have widths and heads {sorted(kinds)}, or see "
                "later words; captions need one width and causal towers"
            )

    @staticmethod
    def fits(towers: Any) -> bool:
        """Whether these towers are a CoCa's."""
        return hasattr(towers, "text_decoder") and hasattr(towers.text_decoder, "cross_attn")

    @property
    def max_tokens(self) -> int:
        """Longest sequence, start and end included."""
        return min(self.towers.text.context_length, self.towers.text_decoder.context_length)

    def see(self, images: Tensor) -> Embeddings:
        """images (B, 3, H, W) -> the vector, and the tokens that CoCa pools for captions."""
        pooled, tokens = self.towers.visual(images)
        return Embeddings(F.normalize(pooled, dim=-1), tokens)

    def memory(
        self, embeddings: Embeddings, use_grid: bool = True, use_pooled: bool = True
    ) -> tuple[Tensor, Tensor]:
        """What the decoder reads: tokens (B, M, E) of `see`, and a mask (B, M) of ones."""
        if embeddings.tokens is None or not use_grid:
            raise InputError(
                "a CoCa writes from a picture's tokens alone: pass pictures, and ports='grid'"
            )
        tokens = embeddings.tokens
        return tokens, tokens.new_ones(tokens.shape[:2], dtype=torch.bool)

    def stepper(self, memory: Tensor, memory_mask: Tensor) -> Stepper:
        """Decoding over this memory."""
        if self._program is None or not self._program.is_current():
            kept = places(self.towers.text) + places(self.towers.text_decoder)
            self._program = _program(plain(self.towers), self.max_tokens, kept)
        return Stepper(self._program, memory, memory_mask)


def _program(towers: Any, max_tokens: int, kept: list[Place]) -> Program:
    text, decoder = towers.text, towers.text_decoder
    parts: list[Own | Picture | Think] = []
    for block in text.transformer.resblocks:
        parts += [_own(block), _think(block)]
    readers = []
    for own, cross in zip(decoder.resblocks, decoder.cross_attn, strict=True):
        parts += [_own(own), _think(own), _picture(cross), _think(cross)]
        readers.append(_reader(cross))
    return Program(
        parts=parts,
        embedding=text.token_embedding.weight.detach(),
        positions=text.positional_embedding.detach()[:max_tokens],
        norm=_norm(decoder.ln_final),
        output=decoder.text_projection.detach().contiguous(),
        read_memory=(
            torch.cat([weight for weight, _ in readers], dim=1).contiguous(),
            torch.cat([bias for _, bias in readers]),
        ),
        norm_memory=True,
        num_heads=decoder.resblocks[0].attn.num_heads,
        places=kept,
    )


def _norm(norm: Any) -> Affine:
    return norm.weight.detach(), norm.bias.detach()


def _gain(scale: Any) -> float | Tensor:
    """Of open_clip's LayerScale, which is Identity where there is none."""
    return getattr(scale, "gamma", 1.0)


def _own(block: Any) -> Own:
    attention = block.attn
    out = along(attention.out_proj.weight, attention.out_proj.bias, _gain(block.ls_1))
    return Own(_norm(block.ln_1), along(attention.in_proj_weight, attention.in_proj_bias), out)


def _think(block: Any) -> Think:
    fc1, fc2 = block.mlp.c_fc, block.mlp.c_proj
    gelu: nn.Module = block.mlp.gelu
    return Think(
        _norm(block.ln_2), along(fc1.weight, fc1.bias),
        along(fc2.weight, fc2.bias, _gain(block.ls_2)), gelu,
    )  # fmt: skip


def _picture(block: Any) -> Picture:
    attention, width = block.attn, block.attn.embed_dim
    scale = head_scale(width, attention.num_heads)
    return Picture(
        _norm(block.ln_1),
        along(attention.in_proj_weight[:width], attention.in_proj_bias[:width], scale),
        along(attention.out_proj.weight, attention.out_proj.bias, _gain(block.ls_1)),
    )


def _reader(block: Any) -> Affine:
    """Keys and values of one cross-attention, the affine part of its norm folded in."""
    attention, width = block.attn, block.attn.embed_dim
    gain, shift = _norm(block.ln_1_kv)
    weight = attention.in_proj_weight.detach()[width:]
    bias = attention.in_proj_bias.detach()[width:]
    return along(weight * gain, bias + weight @ shift)
