"""The pixel decoder: its loss, and its training alone, on grids of a frozen image tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmfm.data.packed import PackedPictures
from mmfm.decoder.pixels import PixelDecoder
from mmfm.device import device_of
from mmfm.training.seen import Seen, expect_as_many, tokens_of
from mmfm.training.sheet import pairs_sheet

_HELD_OUT, _CHUNK, _SHOWN = 1000, 128, 24  # pictures measured, at once, and on the sheet


def reconstruction_loss(rebuilt: Tensor, images: Tensor) -> Tensor:
    """Mean squared error plus a fifth of the mean absolute one, which keeps edges sharp."""
    difference = rebuilt - images
    return difference.square().mean() + 0.2 * difference.abs().mean()


def psnr(rebuilt: Tensor, images: Tensor) -> Tensor:
    """(B,) dB of pictures (B, 3, H, W) in [-1, 1]; at most 86, for equal ones."""
    error = (rebuilt - images).square().mean(dim=(1, 2, 3)).clamp(min=1e-8)
    return 10 * torch.log10(4 / error)


@dataclass(frozen=True)
class ReconstructionData:
    """N pictures, and the grids in which the tower saw them, on white."""

    seen: Seen
    pictures: PackedPictures

    def __post_init__(self) -> None:
        expect_as_many(self.seen, len(self.pictures))

    def take(self, rows: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """tokens (B, N, E) and images (B, 3, H, W) in [-1, 1]."""
        images = torch.from_numpy(self.pictures.on_ground(rows))
        return tokens_of(self.seen.take(rows)).to(device), images.to(device)


class ReconstructionTask:
    """Loss of the pixel decoder alone; PSNR and a sheet of pairs on held-out pictures."""

    def __init__(
        self, pixel_decoder: PixelDecoder, train: ReconstructionData, held_out: ReconstructionData
    ) -> None:
        self.module = pixel_decoder
        self.train = train
        self.held_out = held_out

    def loss(self, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        tokens, images = self.train.take(rows, device_of(self.module))
        return reconstruction_loss(self.module(tokens), images), {}

    def evaluate(self, module: nn.Module) -> tuple[dict[str, Any], dict[str, Image.Image]]:
        """Mean PSNR in dB of at most 1,000 held-out pictures; 24 of them above their rebuilds."""
        count = min(_HELD_OUT, len(self.held_out.pictures))
        ratios, shown = [], []
        for start in range(0, count, _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, count))
            tokens, images = self.held_out.take(rows, device_of(module))
            rebuilt = module(tokens).clamp(-1, 1)
            ratios.append(psnr(rebuilt, images))
            if not start:
                shown = [images[:_SHOWN], rebuilt[:_SHOWN]]
        numbers = {"held_out": count, "held_out_psnr": round(torch.cat(ratios).mean().item(), 3)}
        return numbers, {"reconstruction": pairs_sheet(*shown)}
