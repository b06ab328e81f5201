"""Preference tuning of the decoder: Diffusion-DPO (Wallace et al., 2311.12908) for a flow.

A pair is two pictures for one prompt, the chosen and the rejected. An adapter learns to lower its
error on the chosen picture more than on the rejected one, compared with the network without it,
which is the reference: no second copy of the weights is kept. Velocity errors take the place of
the noise errors of the paper's equation 14.

FOLDER/pairs.jsonl: one pair a line, {"prompt": TEXT, "chosen": FILE, "rejected": FILE}, with the
files' paths relative to FOLDER.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from mmfm.decoder.decoder import ImageDecoder
from mmfm.decoder.flow import Times, interpolate, sample_times, velocity
from mmfm.errors import DataError
from mmfm.layers.adapter import Adapter
from mmfm.model import MMFM
from mmfm.preprocess.images import load_image, to_pixels
from mmfm.shapes import Embeddings
from mmfm.training.seen import tokens_of

PAIRS = "pairs.jsonl"
_CHUNK = 64


@dataclass(frozen=True)
class Pair:
    """Two pictures for one prompt; `chosen` is the better one."""

    prompt: str
    chosen: Path
    rejected: Path


def read_pairs(folder: Path) -> list[Pair]:
    """The pairs of a folder. Raises DataError where a line or a picture is missing or wrong."""
    file = folder / PAIRS
    if not file.is_file():
        raise DataError(f"there is no {file}; wanted one line a pair: prompt, chosen, rejected")
    pairs = []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        try:
            row = json.loads(line)
            pair = Pair(row["prompt"], folder / row["chosen"], folder / row["rejected"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file}, line {number} is no pair: {error!r}") from None
        for path in (pair.chosen, pair.rejected):
            if not path.is_file():
                raise DataError(f"{file}, line {number}: there is no picture {path}")
        pairs.append(pair)
    if not pairs:
        raise DataError(f"{file} holds no pair")
    return pairs


class PreferenceData:
    """The maps of chosen and rejected pictures, and what their prompts say."""

    def __init__(self, model: MMFM, pairs: list[Pair]) -> None:
        assert model.decoder is not None
        self.prompts = [pair.prompt for pair in pairs]
        self.texts = _texts(model, self.prompts)
        self.chosen = _maps(model, [pair.chosen for pair in pairs])  # (N, C, h, w)
        self.rejected = _maps(model, [pair.rejected for pair in pairs])

    def __len__(self) -> int:
        return len(self.prompts)


class PreferenceTask:
    """Trains an adapter of the decoder's network; the network is the reference."""

    def __init__(
        self, decoder: ImageDecoder, adapter: Adapter, train: PreferenceData,
        held_out: PreferenceData, *, beta: float = 500.0, times: Times | None = None,
    ) -> None:  # fmt: skip
        """beta: how hard the adapter is held to the reference: a preference is worth
        beta times a difference of mean squared velocity errors.
        """
        self.module = adapter
        self.decoder = decoder.requires_grad_(False).eval()
        adapter.requires_grad_(True)
        self.train, self.held_out = train, held_out
        self.beta, self.times = beta, times or Times()

    def loss(self, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, dict]:
        margins = self.margins(self.module, self.train, rows, generator)
        return dpo_loss(margins, self.beta), {"preferred": (margins < 0).float().mean()}

    def margins(
        self, adapter: Adapter, data: PreferenceData, rows: np.ndarray,
        generator: torch.Generator,
    ) -> Tensor:  # fmt: skip
        """(B,) change of error on the chosen picture less that on the rejected one; below 0 is
        what is wanted. One time and one noise for both pictures of a pair and both networks.
        """
        network, count = self.decoder.network, len(rows)
        x_1 = torch.cat([data.chosen[rows], data.rejected[rows]])
        t = sample_times(count, self.decoder.config.shift, generator, self.times).repeat(2)
        x_0 = torch.randn(x_1[:count].shape, generator=generator).repeat(2, 1, 1, 1)
        t, x_0 = t.to(x_1), x_0.to(x_1)
        x_t, told = interpolate(x_0, x_1, t), data.texts.take(list(rows) * 2)
        closed = torch.zeros(2 * count, dtype=torch.bool, device=x_1.device)
        with torch.no_grad():
            condition = network.conditioner(told, None, closed)
            reference = network(x_t, t, condition)
        tuned = adapter.bind(network)(x_t, t, condition)
        change = _error(tuned, x_0, x_1, x_t, t) - _error(reference, x_0, x_1, x_t, t)
        chosen, rejected = change.chunk(2)
        return chosen - rejected

    def evaluate(self, module: nn.Module) -> tuple[dict[str, Any], dict[str, Image.Image]]:
        """Loss and share of held-out pairs whose chosen picture became the likelier one."""
        margins, generator = [], torch.Generator().manual_seed(0)
        for start in range(0, len(self.held_out), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(self.held_out)))
            margins.append(self.margins(module, self.held_out, rows, generator))
        found = torch.cat(margins)
        return {
            "held_out": len(found),
            "held_out_loss": round(dpo_loss(found, self.beta).item(), 4),
            "held_out_preferred": round((found < 0).float().mean().item(), 4),
        }, {}


def dpo_loss(margins: Tensor, beta: float) -> Tensor:
    """-log sigmoid(-beta * margin), mean; log 2 where the adapter changes nothing."""
    return -F.logsigmoid(-beta * margins).mean()


def _error(predicted: Tensor, x_0: Tensor, x_1: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    implied = velocity(predicted.float(), x_t, t)
    return (implied - (x_1 - x_0)).square().mean(dim=(1, 2, 3))  # (B,)


@torch.no_grad()
def _maps(model: MMFM, paths: list[Path]) -> Tensor:
    decoder = model.decoder
    assert decoder is not None
    parts = []
    for start in range(0, len(paths), _CHUNK):
        part = paths[start : start + _CHUNK]
        if decoder.config.space == "grid":
            raw = torch.cat([tokens_of(seen) for seen in model.embedder.see(list(part))])
        else:
            size = model.image_size
            raw = torch.stack([torch.from_numpy(to_pixels(load_image(p), size)) for p in part])
        parts.append(decoder.space.encode(raw.to(model.device)))
    return torch.cat(parts)


@torch.no_grad()
def _texts(model: MMFM, prompts: list[str]) -> Embeddings:
    return model.backbone.encode_texts(model.backbone.tokenize(prompts).to(model.device))
