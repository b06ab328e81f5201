"""What a loader hands to a training step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Batch:
    """B samples, decoded; `batch[a:b]` gives some of them.

    images: (B, H, W, 3) uint8 RGB, not normalised: a byte a value crosses to the device, and the
    module's first operation normalises. captions: all of each sample, the plainest first.
    rows: (B,) int64 places in the data set. keys: names of the samples.
    """

    images: np.ndarray
    captions: list[tuple[str, ...]]
    rows: np.ndarray
    keys: list[str]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> Batch:
        return Batch(self.images[part], self.captions[part], self.rows[part], self.keys[part])
