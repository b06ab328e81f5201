"""Random resized crops, drawn by place: a pure function of (seed, step, place in global batch)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mmfm.errors import DataError
from mmfm.preprocess.scaled import Box, Crop


@dataclass(frozen=True)
class RandomCrop:
    """What training keeps of each picture: some of its area, at some aspect ratio, somewhere.

    scale: smallest and largest share of the area (open_clip: 0.9 to 1). ratio: smallest and
    largest width over height, drawn uniformly in its logarithm among those that fit the picture
    (torchvision draws again, up to ten times, until one fits). Raises DataError for bad ranges.
    """

    seed: int
    scale: tuple[float, float] = (0.9, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1 or not 0 < self.ratio[0] <= self.ratio[1]:
            raise DataError(
                f"RandomCrop got scale={self.scale}, ratio={self.ratio}; wanted shares of the area"
                " 0 < low <= high <= 1 and width over height 0 < low <= high"
            )

    def batch(self, step: int, first: int, count: int) -> list[Crop]:
        """Crops of the places `first` to `first + count` in the global batch of a step.

        The numbers of place p are block p of a Philox counter (Salmon et al. 2011), so any rank or
        process draws its own without the others'.
        """
        blocks = np.random.Philox(key=[self.seed, step], counter=[first, 0, 0, 0])
        return [self._crop(*four) for four in np.random.Generator(blocks).random((count, 4))]

    def _crop(self, area: float, shape: float, x: float, y: float) -> Crop:
        def crop(width: int, height: int) -> Box:
            share = self.scale[0] + area * (self.scale[1] - self.scale[0])
            aspect = width / height
            low, high = (math.log(min(max(r, share * aspect), aspect / share)) for r in self.ratio)
            across = math.exp((low + shape * (high - low) - math.log(aspect)) / 2)
            new_width = min(width, width * math.sqrt(share) * across)
            new_height = min(height, height * math.sqrt(share) / across)
            left, top = x * (width - new_width), y * (height - new_height)
            return left, top, left + new_width, top + new_height

        return crop
