"""The judge's training: drawings changed in every way that does not change what they are called.

Generated pictures are softer than real ones, so softness, noise and JPEG are drawn too: what
decides shall be the shape. Mirrors only where no name tells left from right.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from mmfm.data.packed import PackedPictures
from mmfm.device import device_of
from mmfm.errors import DataError

# categories in which a mirrored drawing keeps its name; not flags, clocks, moons, arrows, letters,
# nor people, who have variants that face right
MIRRORED = ("animals and nature", "food and drink", "activities", "smileys and emotion")
_SIDES = frozenset(("left", "right", "leftwards", "rightwards", "clockwise", "counterclockwise"))
_CHUNK = 256  # pictures at once, outside of training steps
_SETTLING = 2048  # at most so many pictures are what the norms' statistics are measured on


def may_mirror(meta: dict) -> bool:
    """Whether the mirror image of a drawing is called the same."""
    return meta.get("category") in MIRRORED and not _SIDES & set(meta["concept"].split())


def moved(rgba: Tensor, mirror: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Shift, scale, turn, stretch and mirror (B, 4, H, W), colour times alpha; alpha 0 comes in.

    Gives (B, 4, size, size). Scale 0.75 to 1.25, each side by itself another 10%, turn up to 10
    degrees, shift up to 10%. mirror: (B,) bool, which may be mirrored; half of them are.
    """
    count = len(rgba)
    draw = torch.rand(7, count, generator=generator)
    scale = torch.exp((draw[0] - 0.5) * 2 * math.log(1.25))
    stretch = torch.exp((draw[1] - 0.5) * 2 * math.log(1.1))
    angle = (draw[2] - 0.5) * 2 * math.radians(10)
    shift = (draw[3:5] - 0.5) * 0.4
    side = torch.where(mirror & (draw[5] < 0.5), -1.0, 1.0)
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([side * cos * scale * stretch, -sin * scale, shift[0]], 1),
        torch.stack([side * sin * scale * stretch, cos * scale / stretch, shift[1]], 1),
    ]
    if size < rgba.shape[-1]:  # why: sampling skips pixels, and thin lines with them
        rgba = F.interpolate(rgba, size=size, mode="area")
    grid = F.affine_grid(torch.stack(rows, 1), [count, 4, size, size], align_corners=False)
    return F.grid_sample(rgba, grid, align_corners=False)


def on_grounds(rgba: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 4, H, W), colour in [0, 1] times alpha -> (B, 3, H, W) in [-1, 1].

    On white for half, nearly white for a quarter, on any colour for a quarter.
    """
    draw = torch.rand(len(rgba), 1, generator=generator)
    colour = torch.rand(len(rgba), 3, generator=generator)
    ground = torch.where(draw < 0.75, 1 - 0.15 * colour, colour)
    ground = torch.where(draw < 0.5, torch.ones_like(colour), ground)[:, :, None, None]
    return 2 * (rgba[:, :3] + ground * (1 - rgba[:, 3:])) - 1


def recoloured(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mildly: each channel by up to 12%, all by up to 15%, brightness by up to 0.1."""
    draw = torch.rand(len(images), 5, 1, 1, generator=generator) - 0.5
    gain = (1 + 0.24 * draw[:, :3]) * (1 + 0.3 * draw[:, 3:4])
    return 1 - (1 - images) * gain + 0.2 * draw[:, 4:]  # around white


def worn(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blurred, noisy or JPEG-coded, some of each; a sixth of the batch stays as it is."""
    size = images.shape[-1]
    parts = list(images.tensor_split(6))
    for place in (1, 2, 3):  # each by its own factor, from 0.28 to 0.9
        factor = 0.28 + 0.62 * torch.rand((), generator=generator).item()
        small = _resized(parts[place], max(8, round(size * factor)), "bilinear")
        parts[place] = _resized(small, size, "bicubic")
    for place in (3, 4):
        strength = 0.15 * torch.rand(len(parts[place]), 1, 1, 1, generator=generator)
        noise = torch.randn(parts[place].shape, generator=generator)
        parts[place] = parts[place] + strength * noise
    qualities = torch.randint(15, 80, (len(parts[5]),), generator=generator).tolist()
    coded = [_jpeg(image, quality) for image, quality in zip(parts[5], qualities, strict=True)]
    parts[5] = torch.stack(coded) if coded else parts[5]
    return torch.cat(parts).clamp(-1, 1)


def _resized(images: Tensor, size: int, mode: str) -> Tensor:
    if not len(images):  # a batch of fewer than six
        return images
    return F.interpolate(images, size=size, mode=mode, antialias=size < images.shape[-1])


def _jpeg(image: Tensor, quality: int) -> Tensor:
    values = ((image.clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG", quality=quality)
    back = np.asarray(Image.open(buffer), np.float32)
    return torch.from_numpy(back).permute(2, 0, 1) / 127.5 - 1


def erased(images: Tensor, generator: torch.Generator) -> Tensor:
    """A quarter of the pictures lose a rectangle to one colour (arXiv:1708.04896)."""
    count, _, height, width = images.shape
    draw = torch.rand(5, count, 1, 1, generator=generator)
    rows, columns = torch.arange(height)[:, None] / height, torch.arange(width) / width
    high, wide = 0.15 + 0.3 * draw[0], 0.15 + 0.3 * draw[1]
    top, left = draw[2] * (1 - high), draw[3] * (1 - wide)
    inside = (rows >= top) & (rows < top + high) & (columns >= left) & (columns < left + wide)
    colour = 2 * torch.rand(count, 3, 1, 1, generator=generator) - 1
    return torch.where((inside & (draw[4] < 0.25))[:, None], colour, images)


class JudgeTask:
    """Cross-entropy of the class; on held-out training drawings the share named right."""

    def __init__(
        self, network: nn.Module, classes: Sequence[str], train: PackedPictures,
        held_out: PackedPictures, *, size: int = 64, smoothing: float = 0.1,
    ) -> None:  # fmt: skip
        """classes: concepts; every picture's `concept` must be among them. size: pixels a side that
        the network is shown. Raises DataError."""
        self.module = network
        self.train, self.held_out = train, held_out
        self.targets, self.wanted = (_numbers(part, classes) for part in (train, held_out))
        self.mirror = torch.tensor([may_mirror(meta) for meta in train.meta])
        self.size, self.smoothing = size, smoothing

    def augmented(self, rows: np.ndarray, generator: torch.Generator) -> Tensor:
        """(B, 3, H, W) in [-1, 1]: training pictures, changed."""
        pixels = torch.from_numpy(self.train.pixels[rows]).permute(0, 3, 1, 2) / 255
        rgba = torch.cat([pixels[:, :3] * pixels[:, 3:], pixels[:, 3:]], dim=1)
        images = on_grounds(moved(rgba, self.mirror[rows], self.size, generator), generator)
        return erased(worn(recoloured(images, generator), generator), generator)

    def loss(self, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            images = self.augmented(rows, generator).to(device_of(self.module))
        targets = self.targets[rows].to(images.device)
        logits = self.module(images).float()
        loss = F.cross_entropy(logits, targets, label_smoothing=self.smoothing)
        return loss, {"right": (logits.argmax(dim=1) == targets).float().mean()}

    def evaluate(self, module: nn.Module) -> tuple[dict[str, Any], dict[str, Image.Image]]:
        """Shares of the held-out drawings, on white, named right at once and among five.

        The norms' statistics are those of `settle`."""
        self.settle(module)
        module.eval()
        places = []
        for rows in np.array_split(np.arange(len(self.held_out)), -(-len(self.held_out) // _CHUNK)):
            images = torch.from_numpy(self.held_out.on_ground(rows))
            images = F.interpolate(images, size=self.size, mode="area").to(device_of(module))
            logits = module(images).float().cpu()
            own = logits.gather(1, self.wanted[rows][:, None])
            places.append((logits > own).sum(dim=1))
        place = torch.cat(places)
        return {
            "held_out": len(place),
            "held_out_top1": round((place < 1).float().mean().item(), 4),
            "held_out_top5": round((place < 5).float().mean().item(), 4),
        }, {}

    def settle(self, module: nn.Module) -> None:
        """Measure the norms' statistics anew, on some changed training pictures.

        why: those that training gathered are of other weights than the averaged ones.
        """
        norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over batches
        generator = torch.Generator().manual_seed(0)
        module.train()
        rows = torch.randperm(len(self.train), generator=generator)[:_SETTLING]
        for some in rows.split(_CHUNK):
            module(self.augmented(some.numpy(), generator).to(device_of(module)))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _numbers(pictures: PackedPictures, classes: Sequence[str]) -> Tensor:
    places = {name: number for number, name in enumerate(classes)}
    missing = sorted({meta["concept"] for meta in pictures.meta} - set(places))
    if missing:
        raise DataError(f"{len(missing)} concepts are no class of the judge, {missing[0]!r} first")
    return torch.tensor([places[meta["concept"]] for meta in pictures.meta])
