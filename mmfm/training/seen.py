"""What frozen towers said of pictures: heads train on it, and the towers run once or never.

Two places, one face: `take(rows)` of `SeenInMemory` and of `SeenInStore`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mmfm.data.packed import PackedPictures
from mmfm.data.store import EmbeddingStore
from mmfm.device import device_of
from mmfm.encoders.backbone import Backbone
from mmfm.errors import DataError, ModelError
from mmfm.shapes import Embeddings

_CHUNK = 256  # pictures encoded at once


class Seen(Protocol):
    """Embeddings of N pictures, in the order of a data set."""

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray, grids: bool = True) -> Embeddings:
        """pooled (B, D) and, where they are kept and wanted, tokens (B, N, E); float32, CPU."""


@dataclass(frozen=True)
class SeenInMemory:
    """pooled (N, D) float32; tokens (N, T, E) float16, or None."""

    pooled: Tensor
    tokens: Tensor | None = None

    @classmethod
    @torch.no_grad()
    def of_pictures(
        cls, backbone: Backbone, pictures: PackedPictures, grids: bool = True
    ) -> SeenInMemory:
        """Every picture, on white, through the image tower. Raises ModelError without tokens."""
        pooled, tokens, device = [], [], device_of(backbone)
        for start in range(0, len(pictures), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(pictures)))
            said = backbone.encode_images(torch.from_numpy(pictures.on_ground(rows)).to(device))
            pooled.append(said.pooled.cpu())
            if grids:
                tokens.append(tokens_of(said).half().cpu())
        return cls(torch.cat(pooled), torch.cat(tokens) if grids else None)

    def __len__(self) -> int:
        return len(self.pooled)

    def take(self, rows: np.ndarray, grids: bool = True) -> Embeddings:
        tokens = None if self.tokens is None or not grids else self.tokens[rows].float()
        return Embeddings(self.pooled[rows], tokens)


class SeenInStore:
    """Rows of an embedding store, read when they are asked for; only the keys are in memory.

    keys: of every picture, hex sha256 or (N, 32) uint8: `PackedPictures.keys`, or
    `mmfm.jobs.embed.image_keys`. Raises DataError at once when something is missing.
    """

    def __init__(
        self, store: EmbeddingStore, keys: Sequence[str] | np.ndarray, grids: bool = True
    ) -> None:
        self.store = store
        self.keys = keys if isinstance(keys, np.ndarray) else np.array(keys, object)
        self.grids = grids
        for kind in ("pooled", *(["grid"] if grids else [])):
            store.expect(self._keys(np.arange(len(keys))), kind)

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: np.ndarray, grids: bool = True) -> Embeddings:
        keys = self._keys(rows)
        kept = self.grids and grids
        tokens = torch.from_numpy(self.store.grids(keys)).float() if kept else None
        return Embeddings(torch.from_numpy(self.store.pooled(keys)), tokens)

    def _keys(self, rows: np.ndarray) -> Sequence[str] | np.ndarray:
        chosen = self.keys[rows]
        return chosen if chosen.dtype == np.uint8 else chosen.tolist()


def tokens_of(said: Embeddings) -> Tensor:
    """Tokens that a head needs. Raises ModelError when the tower gives none."""
    if said.tokens is None:
        raise ModelError(
            "this backbone gives no tokens, which the head reads; train it on a plain ViT with a "
            "CLIP-style text tower"
        )
    return said.tokens


def expect_as_many(seen: Seen, count: int) -> None:
    """Raises DataError when embeddings and what is learned from them differ in number."""
    if len(seen) != count:
        raise DataError(
            f"got embeddings of {len(seen)} pictures for a data set of {count}; embed the same data"
        )


@dataclass(frozen=True)
class SeenViews:
    """V views of each of N pictures, the first as it is: those of picture i are i, N + i, ..."""

    views: Sequence[SeenInMemory]

    def __len__(self) -> int:
        return sum(len(view) for view in self.views)

    def take(self, rows: np.ndarray, grids: bool = True) -> Embeddings:
        numbers, places = np.divmod(np.asarray(rows), len(self.views[0]))
        order = np.argsort(numbers, kind="stable")
        parts = [
            self.views[number].take(places[order[numbers[order] == number]], grids)
            for number in np.unique(numbers)
        ]
        back = np.argsort(order, kind="stable")
        pooled = torch.cat([part.pooled for part in parts])[back]
        if parts[0].tokens is None:
            return Embeddings(pooled)
        return Embeddings(pooled, torch.cat([tokens_of(part) for part in parts])[back])
