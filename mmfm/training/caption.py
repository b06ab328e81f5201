"""The caption head: what it is asked, its loss, and its training alone, on frozen towers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmfm.captioner.decoding import decode
from mmfm.captioner.network import Captioner, random_ports
from mmfm.captioner.vocabulary import Vocabulary, encode_batch
from mmfm.evaluation.captioning import caption_figures
from mmfm.shapes import Embeddings
from mmfm.training.seen import Seen, expect_as_many

_HELD_OUT, _WRITTEN, _CHUNK = 1000, 256, 128  # pictures measured, captioned, and at once


@dataclass(frozen=True, kw_only=True)
class CaptionShares:
    """Chances, per sample, of what the caption head does not see, and noise on what it sees."""

    grid_drop: float = 0.2  # caption from the pooled vector alone
    pooled_drop: float = 0.3  # caption from the grid alone
    pooled_noise: float = 0.04  # std per entry, of vectors whose entries are about 0.07


def caption_pair(captions: tuple[str, ...], meta: dict, draw: float) -> tuple[str, str]:
    """(prompt, text) for the caption head; without a prompt it learns to say the name.

    The prompts are what `caption(prompt=...)` can ask for: "a drawing of", "style:", "keywords:".
    """
    name = captions[0]
    if draw < 0.75:
        return "", name
    if draw < 0.83:
        return "a drawing of", name
    if draw < 0.91 or not meta.get("keywords"):
        return "style:", meta.get("style") or name
    return "keywords:", ", ".join(meta["keywords"][:6])


def caption_loss(
    captioner: Captioner, vocabulary: Vocabulary, seen: Embeddings,
    pairs: Sequence[tuple[str, str]], shares: CaptionShares | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, int]:  # fmt: skip
    """(nats per token, number of tokens) of B (prompt, text) pairs, given B embeddings.

    shares: which ports are closed and how much noise is added, drawn from `generator`; None opens
    both and adds none, as a held-out loss wants.
    """
    device = seen.pooled.device
    token_ids, target = encode_batch(
        vocabulary, [p for p, _ in pairs], [t for _, t in pairs], captioner.config.max_tokens
    )
    ports: dict[str, Any] = {}
    if shares is not None:
        grid_open, pooled_open = random_ports(
            len(pairs), shares.grid_drop, shares.pooled_drop, generator
        )
        ports = {"grid_open": grid_open.to(device), "pooled_open": pooled_open.to(device),
                 "pooled_noise": shares.pooled_noise, "generator": generator}  # fmt: skip
    loss = captioner.loss(seen, token_ids.to(device), target.to(device), **ports)
    return loss, int(target.sum())


@dataclass(frozen=True)
class CaptionData:
    """N pictures as the towers saw them, what is said of each, the plainest first, and its meta."""

    seen: Seen
    captions: Sequence[tuple[str, ...]]
    meta: Sequence[dict]

    def __post_init__(self) -> None:
        expect_as_many(self.seen, len(self.captions))
        expect_as_many(self.seen, len(self.meta))


class CaptionTask:
    """Loss of the caption head alone; on held-out data its loss, exact match and token F1."""

    def __init__(
        self, captioner: Captioner, vocabulary: Vocabulary, train: CaptionData,
        held_out: CaptionData, shares: CaptionShares | None = None,
    ) -> None:  # fmt: skip
        self.module = captioner
        self.vocabulary = vocabulary
        self.train = train
        self.held_out = held_out
        self.shares = shares or CaptionShares()

    def loss(self, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        data = self.train
        draws = torch.rand(len(rows), generator=generator).tolist()
        pairs = [
            caption_pair(data.captions[row], data.meta[row], draw)
            for row, draw in zip(rows, draws, strict=True)
        ]
        seen = data.seen.take(rows).to(_device(self.module))
        loss, _ = caption_loss(self.module, self.vocabulary, seen, pairs, self.shares, generator)
        return loss, {}

    def evaluate(self, module: nn.Module) -> tuple[dict[str, Any], dict[str, Image.Image]]:
        """Loss of the name on 1,000 held-out pictures; 256 greedy captions against all references.

        exact and token F1 are in [0, 1], as `mmfm.evaluation.captioning` defines them.
        """
        data, device = self.held_out, _device(module)
        count = min(_HELD_OUT, len(data.captions))
        nats, tokens = 0.0, 0
        written: list[str] = []
        for start in range(0, count, _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, count))
            seen = data.seen.take(rows).to(device)
            pairs = [("", data.captions[row][0]) for row in rows.tolist()]
            loss, number = caption_loss(module, self.vocabulary, seen, pairs)
            nats, tokens = nats + loss.item() * number, tokens + number
            if start < _WRITTEN:
                said = decode(module, *module.memory(seen), self.vocabulary)
                written += [captions[0] for captions in said]
        references = [list(captions) for captions in data.captions[: len(written)]]
        figures = caption_figures(written, [texts[0] for texts in references], references)
        return {
            "held_out": count,
            "held_out_caption_loss": round(nats / tokens, 4),
            "held_out_captions": len(written),
            "held_out_exact": round(figures["exact"], 4),
            "held_out_token_f1": round(figures["token_f1"], 4),
        }, {}


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
