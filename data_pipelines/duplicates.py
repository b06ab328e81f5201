"""Leaving out pictures that the corpus already holds.

Exact: equal RGBA pixels anywhere. Near: nearly equal pictures of one set that carry one name (the
numbered variants of an icon), by a 64-bit difference hash and the colours of an 8x8 copy. Toned
emoji differ in name, so they are never near duplicates of each other.
"""

import numpy as np

from data_pipelines.drawing import Drawing
from data_pipelines.render import Picture

MAX_HASH_BITS = 3  # of 64
MAX_COLOR_STEP = 6.0  # of 255, mean over the 8x8 copies


class Duplicates:
    """Remembers what was kept; the first of equals is kept."""

    def __init__(self):
        self._pixels: set[str] = set()
        self._named: dict[tuple[str, str], list[Picture]] = {}

    def rule(self, drawing: Drawing, picture: Picture) -> str | None:
        """The rule that drops a picture, or None, and then it is remembered as kept."""
        if picture.pixels_sha256 in self._pixels:
            return "exact duplicate"
        like = self._named.setdefault((drawing.set, drawing.name), [])
        if any(are_near(picture, other) for other in like):
            return "near duplicate"
        self._pixels.add(picture.pixels_sha256)
        like.append(picture)
        return None


def are_near(first: Picture, second: Picture) -> bool:
    """Whether two pictures show the same but for details."""
    if (first.dhash ^ second.dhash).bit_count() > MAX_HASH_BITS:
        return False
    colors = [np.frombuffer(picture.thumb, np.uint8).astype(float) for picture in (first, second)]
    return float(np.abs(colors[0] - colors[1]).mean()) <= MAX_COLOR_STEP
