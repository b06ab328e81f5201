"""Pictures that are too small or too long, by the numbers in their headers."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from mmfm.data.filters.filter import Drop, SampleFilter
from mmfm.data.sample import Sample
from mmfm.errors import DataError, ImageError
from mmfm.preprocess.images import FORMATS


class SizeFilter(SampleFilter):
    """Keeps pictures whose shorter side has `min_side` pixels, and whose longer side is at most
    `max_aspect` times the shorter. Nothing is decoded; rotation in the EXIF changes neither."""

    name = "size"

    def __init__(self, min_side: int = 1, max_aspect: float | None = None) -> None:
        """Raises DataError for a side below 1 or an aspect below 1."""
        if min_side < 1:
            raise DataError(f"the least side is {min_side}; wanted at least 1 pixel")
        if max_aspect is not None and not max_aspect >= 1:
            raise DataError(f"the largest aspect is {max_aspect}; wanted at least 1 (a square)")
        self.min_side, self.max_aspect = min_side, max_aspect

    def settings(self) -> dict[str, Any]:
        return {"min_side": self.min_side, "max_aspect": self.max_aspect}

    def judge(self, sample: Sample) -> Drop | None:
        short, long = sorted(picture_size(sample.image))
        if short < self.min_side:
            return Drop("too-small", short)
        if self.max_aspect is not None and long > self.max_aspect * short:
            return Drop("too-long", round(long / short, 3))
        return None


def picture_size(data: bytes) -> tuple[int, int]:
    """(width, height) in the header of an encoded picture. Raises ImageError for what is none."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.size
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
        raise ImageError(f"the image bytes are not a picture: {error or 'damaged'}.") from error
