"""What the settings leave open, decided from the data, the model and the machine."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mmfm.encoders.backbone import Backbone
from mmfm.errors import InputError
from mmfm.finetuning.settings import HEADS, Settings
from mmfm.model import MMFM

_SMALL = 60_000_000  # parameters of towers that are trained whole
_FEW, _FEW_TO_START = 8, 32  # captioned pictures below which towers stay frozen; with fresh heads
_BLOCK = re.compile(r"^(.*?\.)?(?:resblocks|blocks|layers|layer)\.(\d+)\.")
_LAST = re.compile(r"(ln_post|ln_final|text_projection|logit_|attn_pool|head\.|\.proj$|^proj$)")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """heads: the skills that adapt. train: heads, blocks:N, lora, all. No steps: no such stage."""

    heads: tuple[str, ...]
    train: str
    batch_size: int
    learning_rate: float
    tower_steps: int
    caption_steps: int
    pixel_steps: int
    flow_steps: int
    num_views: int
    precision: str

    @property
    def trains_towers(self) -> bool:
        return self.tower_steps > 0 and self.train != "heads"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "heads": list(self.heads)}


def choose(
    settings: Settings, model: MMFM, *, num_captioned: int, num_pictures: int, fresh: list[str],
    lora: bool,
) -> Choices:  # fmt: skip
    """num_captioned, num_pictures: that are learned from. fresh: heads that begin from nothing.

    A head learns its set about ten times over; a fresh one three times as long. Raises InputError
    where nothing could be learned.
    """
    heads = tuple(head for head in HEADS if settings.adapts(head))
    if not num_captioned:
        heads = tuple(head for head in heads if head == "decoder")
    if not heads:
        raise InputError(
            "no picture has a caption, and search and captions learn from nothing else; write a "
            ".txt beside each (`mmfm caption --write-txt` begins it), or take --heads decoder"
        )
    towers = sum(p.numel() for p in model.backbone.towers.parameters())
    train = settings.train
    if lora and train is None:
        train = "lora"
    if train is None:
        few = _FEW_TO_START if fresh else _FEW
        train = "all" if towers <= _SMALL and num_captioned >= few else "heads"
    if "contrastive" not in heads and train != "heads":
        train = "heads"  # the contrastive loss is never off while towers train
    batch = settings.batch_size or max(4, min(96, num_captioned // 2 or num_pictures // 2))
    passes = settings.steps or max(40, min(400, round(10 * num_captioned / batch)))
    longer = {skill: 3 if skill in fresh else 1 for skill in HEADS}
    towers_change = "contrastive" in heads
    grid = model.config.decoder is not None and model.config.decoder.space == "grid"
    drawn = settings.steps or max(40, min(400, round(10 * num_pictures / batch)))
    return Choices(
        heads=heads, train=train, batch_size=batch,
        learning_rate=settings.learning_rate or (3e-4 if towers <= _SMALL else 3e-5),
        tower_steps=passes if "contrastive" in heads else 0,
        caption_steps=longer["caption"] * passes if _speaks(heads, model, towers_change) else 0,
        pixel_steps=longer["decoder"] * drawn
        if grid and ("decoder" in fresh or (train != "heads" and towers_change)) else 0,
        flow_steps=2 * longer["decoder"] * drawn if "decoder" in heads and model.decoder else 0,
        num_views=4 if num_pictures <= 5000 else 2,
        precision=_precision(settings.precision),
    )  # fmt: skip


def _speaks(heads: tuple[str, ...], model: MMFM, towers_change: bool) -> bool:
    return "caption" in heads and model.captioner is not None


def _precision(asked: str) -> str:
    """auto: bf16 where the processor has units for it; elsewhere torch emulates it, slowly."""
    if asked != "auto":
        return asked
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "fp32"
    return "bf16" if "amx_bf16" in flags or "avx512_bf16" in flags else "fp32"


def freeze_towers(backbone: Backbone, train: str) -> None:
    """Leave a gradient to what `train` names: all, or of blocks:N the last N and what follows them.

    Raises InputError when a tower has fewer blocks.
    """
    if train == "all":
        backbone.requires_grad_(True)
        return
    wanted = int(train.partition(":")[2])
    places = {name: _BLOCK.match(name) for name, _ in backbone.towers.named_parameters()}
    depth: dict[str, int] = {}
    for found in filter(None, places.values()):
        tower = found.group(1) or ""
        depth[tower] = max(depth.get(tower, 0), int(found.group(2)) + 1)
    if not depth or wanted > min(depth.values()):
        raise InputError(
            f"train is blocks:{wanted}, and the shorter tower has "
            f"{min(depth.values(), default=0)} blocks; take fewer, or --train all"
        )
    for name, parameter in backbone.towers.named_parameters():
        place = places[name]
        if place is None:
            parameter.requires_grad_(bool(_LAST.search(name)))
        else:
            parameter.requires_grad_(int(place.group(2)) >= depth[place.group(1) or ""] - wanted)


def count_trained(module: nn.Module) -> int:
    """Parameters with a gradient."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
