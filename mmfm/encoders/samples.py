"""Real inputs to try a precision on: the caller's own, and the gallery's where they are few."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfm.preprocess.images import load_image
from mmfm.preprocess.transform import Preprocess

GALLERY = Path(__file__).parents[1] / "gallery"
FEWEST, MOST = 8, 64  # inputs that a precision is tried on


def enough(given: Tensor | None, backbone: Any, tower: str) -> Tensor:
    """The given inputs of a tower (pixels or ids, (B, ...)), at most 64, and with drawings of the
    package's gallery, or their names, at least 8.
    """
    if given is not None and len(given) >= FEWEST:
        return given[:MOST]
    made = _drawings(backbone) if tower == "image" else backbone.tokenize(_names())
    return made if given is None else torch.cat([given.cpu(), made.to(given.dtype)])


def _drawings(backbone: Any) -> Tensor:
    preprocess = Preprocess.from_open_clip(backbone.config.preprocess_cfg)
    pictures = [load_image(GALLERY / entry["file_name"]) for entry in _entries()]
    return torch.from_numpy(np.stack([preprocess(picture) for picture in pictures]))


def _names() -> list[str]:
    return [entry["text"] for entry in _entries()]


def _entries() -> list[dict[str, str]]:
    with open(GALLERY / "captions.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, FEWEST)]
