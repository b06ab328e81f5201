"""A bundle that is open for drawing from words alone: its decoder, and words without open_clip.

Importing open_clip takes several times as long as a picture does. What this cannot do (reading
pictures) the real model does, which is loaded when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfm import bundle
from mmfm.decoder.decoder import ImageDecoder
from mmfm.decoder.pixels import PixelDecoder
from mmfm.drawing.drawing import Drawing
from mmfm.encoders.light import LightTexts
from mmfm.errors import ModelError
from mmfm.preprocess.transform import Preprocess
from mmfm.shapes import Embeddings


class LightDrawing(Drawing):
    """What `mmfm generate` needs of a model, on the CPU; pictures equal the model's own up to
    rounding.

    folder: of a bundle. load: gives the real model. Raises ModelError where the bundle has no
    decoder of the spaces "grid" and "pixel", or a text tower that needs open_clip.
    """

    def __init__(self, folder: Path, load: Callable[[], Any]) -> None:
        self._texts = LightTexts(folder)
        self._load = load
        found = bundle.read(folder)
        self.config, self.name = found.config, found.config.name
        decoder, pixels = self.config.decoder, self.config.pixel_decoder
        if decoder is None or decoder.space not in ("grid", "pixel"):
            raise ModelError(f"{self.name} has no decoder that can be opened by itself")
        self.device = torch.device("cpu")
        self.preprocess = Preprocess.from_open_clip(self.config.backbone.preprocess_cfg)
        self.pixel_decoder = None if pixels is None else PixelDecoder(pixels).eval()
        self.decoder = ImageDecoder(decoder, self.pixel_decoder).eval()
        for name in ("pixel_decoder", "decoder"):
            if getattr(self, name) is not None:
                found.fill(name, getattr(self, name))

    @property
    def image_size(self) -> int:
        return self.config.backbone.image_size

    @property
    def embed_dim(self) -> int:
        return self.config.backbone.embed_dim

    @property
    def backbone_hash(self) -> str:
        """As the model's own."""
        return self._texts.backbone_hash

    @cached_property
    def model(self) -> Any:
        """The real model."""
        return self._load()

    @property
    def embedder(self) -> Any:
        return self.model.embedder

    def embed_images(self, *args: Any, **kwargs: Any) -> np.ndarray:
        return self.model.embed_images(*args, **kwargs)

    def _read(self, texts: list[str]) -> Embeddings:
        said = self._texts.words(texts)
        longest = max(len(words) for _, words in said)
        tokens = torch.zeros(len(said), longest, said[0][1].shape[1])
        mask = torch.zeros(len(said), longest, dtype=torch.bool)
        for row, (_, words) in enumerate(said):
            tokens[row, : len(words)] = torch.from_numpy(words)
            mask[row, : len(words)] = True
        pooled: Tensor = torch.from_numpy(np.stack([vector for vector, _ in said]))
        return Embeddings(pooled, tokens, mask)

    def _checked(self, texts: str | Sequence[str], truncate: str) -> list[str]:
        return self._texts.checked(texts, truncate, blank=False)

    def _need(self, part: str, skill: str) -> Any:
        return getattr(self, part)
