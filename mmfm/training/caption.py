"""The caption head: what it is asked, its loss, and its training alone, on frozen towers."""

from __future__ import annotations

import random
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
from mmfm.data.questions import drawn
from mmfm.device import device_of
from mmfm.errors import DataError
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
    token_drop: float = 0.0  # of each image token


def caption_pair(captions: tuple[str, ...], meta: dict, draw: float) -> tuple[str, str]:
    """(prompt, text) for the head while the towers train; without a prompt it says the name.

    The head alone, afterwards, learns all of `mmfm.data.questions`.
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
    generator: torch.Generator | None = None, slices: int = 1,
) -> tuple[Tensor, int]:  # fmt: skip
    """(nats per token, number of tokens) of B (prompt, text) pairs, given B embeddings.

    shares: which ports are closed and how much noise is added, drawn from `generator`; None opens
    both and adds none, as a held-out loss wants. slices: the batch, ordered by length, is computed
    in so many parts: the same mean, less padding.
    """
    ports: dict[str, Tensor] = {}
    if shares is not None:
        grid_open, pooled_open = random_ports(
            len(pairs), shares.grid_drop, shares.pooled_drop, generator
        )
        ports = {"grid_open": grid_open, "pooled_open": pooled_open}
        if shares.token_drop and seen.tokens is not None:
            seen = _without_tokens(seen, shares.token_drop, generator)
    lengths = [len(vocabulary.encode(p)) + len(vocabulary.encode(t)) for p, t in pairs]
    order = np.argsort(lengths, kind="stable") if slices > 1 else np.arange(len(pairs))
    total, count = seen.pooled.new_zeros(()), 0
    for rows in filter(len, np.array_split(order, slices)):
        chosen = rows.tolist()
        loss, tokens = _loss_of_rows(
            captioner, vocabulary, seen.take(chosen), [pairs[i] for i in chosen],
            0.0 if shares is None else shares.pooled_noise, generator,
            {name: is_open[chosen].to(seen.pooled.device) for name, is_open in ports.items()},
        )  # fmt: skip
        total, count = total + loss * tokens, count + tokens
    return total / count, count


def _loss_of_rows(
    captioner: Captioner, vocabulary: Vocabulary, seen: Embeddings,
    pairs: Sequence[tuple[str, str]], noise: float, generator: torch.Generator | None,
    ports: dict[str, Tensor],
) -> tuple[Tensor, int]:  # fmt: skip
    token_ids, target = encode_batch(
        vocabulary, [p for p, _ in pairs], [t for _, t in pairs], captioner.config.max_tokens
    )
    device = seen.pooled.device
    loss = captioner.loss(
        seen, token_ids.to(device), target.to(device), pooled_noise=noise, generator=generator,
        **ports,
    )  # fmt: skip
    return loss, int(target.sum())


def _without_tokens(
    seen: Embeddings, share: float, generator: torch.Generator | None
) -> Embeddings:
    """Image tokens masked at random; the first stays, so that an open grid is never empty."""
    tokens = seen.tokens
    assert tokens is not None
    kept = (torch.rand(tokens.shape[:2], generator=generator) >= share).to(tokens.device)
    kept[:, 0] = True
    return Embeddings(seen.pooled, tokens, kept if seen.mask is None else kept & seen.mask)


@dataclass(frozen=True)
class CaptionData:
    """N pictures as the towers saw them, what is said of each, the plainest first, and its meta.

    seen: of N pictures, or of V * N: picture i as it is and changed a little, in rows i, N + i, ...
    meta: what `mmfm.data.questions` knows how to ask for.
    """

    seen: Seen
    captions: Sequence[tuple[str, ...]]
    meta: Sequence[dict]

    def __post_init__(self) -> None:
        if not self.captions or len(self.seen) % len(self.captions):
            expect_as_many(self.seen, len(self.captions))
        if len(self.meta) != len(self.captions):
            raise DataError(
                f"got meta of {len(self.meta)} pictures for captions of {len(self.captions)}"
            )

    @property
    def num_views(self) -> int:
        return max(1, len(self.seen) // max(1, len(self.captions)))


class CaptionTask:
    """Loss of the caption head alone; on held-out data its loss, exact match and token F1."""

    def __init__(
        self, captioner: Captioner, vocabulary: Vocabulary, train: CaptionData,
        held_out: CaptionData, shares: CaptionShares | None = None, slices: int = 1,
    ) -> None:  # fmt: skip
        self.module = captioner
        self.vocabulary = vocabulary
        self.train = train
        self.held_out = held_out
        self.shares = shares or CaptionShares()
        self.slices = slices

    def loss(self, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        data, count = self.train, len(self.train.captions)
        draws = torch.rand(2, len(rows), generator=generator).numpy()
        chance = random.Random(int(draws[0, 0] * 2**24))
        others = (draws[1] * count).astype(int)
        pairs = [
            drawn(data.captions[row][0], data.meta[row], data.captions[other][0], chance.random)
            for row, other in zip(rows, others, strict=True)
        ]
        # why: a name spelled in bytes can make a question longer than the head reads
        most = self.module.config.max_tokens - 3
        pairs = [
            pair if len(self.vocabulary.encode(pair[0])) <= most else ("", data.captions[row][0])
            for row, pair in zip(rows, pairs, strict=True)
        ]
        views = (draws[0] * data.num_views).astype(int)
        seen = data.seen.take(rows + views * count).to(device_of(self.module))
        loss, _ = caption_loss(
            self.module, self.vocabulary, seen, pairs, self.shares, generator, self.slices
        )
        return loss, {}

    def evaluate(self, module: nn.Module) -> tuple[dict[str, Any], dict[str, Image.Image]]:
        """Loss of the name on 1,000 held-out pictures; 256 greedy captions against all references.

        exact and token F1 are in [0, 1], as `mmfm.evaluation.captioning` defines them.
        """
        data, device = self.held_out, device_of(module)
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
