"""Search adapts while the towers stay frozen: two square maps behind cached vectors.

Row vectors v of unit length become normalize(v W). A tower's vector is normalize(f P) with its
projection P, and the length cancels, so W is folded into the projection afterwards, P <- P W:
exactly the same, and the model is an ordinary open_clip model again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from mmfm.encoders.backbone import Backbone
from mmfm.errors import ModelError
from mmfm.finetuning.adaptation import pair_loss, ranks, said_of
from mmfm.training.seen import Seen


class Projections(nn.Module):
    """pictures, texts: (D, D), the identity at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pictures = nn.Parameter(torch.eye(width))
        self.texts = nn.Parameter(torch.eye(width))


class ProjectionTask:
    """Contrastive loss of cached vectors, and a pull of both maps to the identity."""

    def __init__(
        self, backbone: Backbone, seen: Seen, captions: list[tuple[str, ...]],
        texts: dict[str, Tensor], held_out: tuple[Tensor, list[str]],
        original: tuple[Tensor, list[str]] | None = None, keep: float = 1.0,
    ) -> None:  # fmt: skip
        """seen: V views of the N pictures that `captions` are of. texts: the vector of each.

        held_out, original: vectors of pictures, and what is said of each.
        """
        self.module = Projections(backbone.config.embed_dim)
        self.backbone, self.seen, self.captions, self.texts = backbone, seen, captions, texts
        self.held_out, self.original, self.keep = held_out, original, keep
        names = {name: i for i, name in enumerate(dict.fromkeys(c[0] for c in captions))}
        self.groups = torch.tensor([names[c[0]] for c in captions])

    def loss(self, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        draws = torch.rand(2, len(rows), generator=generator)
        count = len(self.captions)
        views = (draws[0] * (len(self.seen) // count)).long().numpy()
        pooled = self.seen.take(rows + views * count, grids=False).pooled
        said = torch.stack([
            self.texts[said_of(self.captions[row], draw)]
            for row, draw in zip(rows, draws[1].tolist(), strict=True)
        ])  # fmt: skip
        images, words = self.turned(self.module, pooled, said)
        contrastive = pair_loss(self.backbone, images, words, self.groups[torch.from_numpy(rows)])
        identity = torch.eye(len(self.module.texts))
        far = sum((p - identity).square().mean() for p in self.module.parameters())
        far = far * len(identity)
        return contrastive + self.keep * far, {
            "contrastive": contrastive.detach(),
            "far": far.detach(),
        }

    @staticmethod
    def turned(maps: nn.Module, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (B, D) and (B, D) as they will be when the maps are folded in."""
        return F.normalize(images @ maps.pictures, dim=-1), F.normalize(texts @ maps.texts, dim=-1)

    def evaluate(self, module: nn.Module) -> tuple[dict[str, Any], dict[str, Image.Image]]:
        numbers: dict[str, Any] = {}
        for name, pairs in (("held_out", self.held_out), ("original", self.original)):
            if pairs is not None:
                pictures, names = pairs
                said = torch.stack([self.texts[text] for text in names])
                numbers |= ranks(*self.turned(module, pictures, said), names, name)
        return numbers, {}


@torch.no_grad()
def fold(backbone: Backbone, maps: Projections) -> None:
    """Put the maps into the last projection of each tower; its vectors are then turned by them.

    Raises ModelError when a tower has none that is linear.
    """
    for owner, name, turn in (*_ends(backbone),):
        weight = getattr(owner, name)
        map_ = maps.pictures if turn == "pictures" else maps.texts
        if isinstance(weight, nn.Linear):
            weight.weight.copy_(map_.T @ weight.weight)
            if weight.bias is not None:
                weight.bias.copy_(weight.bias @ map_)
        else:
            weight.copy_(weight @ map_)


def _ends(backbone: Backbone) -> list[tuple[nn.Module, str, str]]:
    towers: Any = backbone.towers
    text = getattr(towers, "text", towers)
    found = []
    for tower, names, turn in (
        (towers.visual, ("proj",), "pictures"), (text, ("text_projection", "proj"), "texts"),
    ):  # fmt: skip
        name = next((n for n in names if _is_linear(getattr(tower, n, None))), None)
        head = getattr(tower, "head", None)
        if name is None and isinstance(getattr(head, "proj", None), nn.Linear):
            tower, name = head, "proj"
        if name is None:
            raise ModelError(
                f"the tower for {turn} has no linear projection at its end, so search cannot adapt "
                "with frozen towers; take --train blocks:1, or leave contrastive out of --heads"
            )
        found.append((tower, name, turn))
    return found


def _is_linear(value: Any) -> bool:
    return isinstance(value, nn.Linear) or (isinstance(value, Tensor) and value.dim() == 2)
