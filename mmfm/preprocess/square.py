"""Whatever holds a picture -> the square uint8 pixels that a tower's `Preprocess` asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mmfm.errors import InputError
from mmfm.preprocess.images import load_image
from mmfm.preprocess.transform import Preprocess

DECODES = ("exact", "fast")


def reader(preprocess: Preprocess, decode: str) -> Callable[[Any], np.ndarray]:
    """A function from a source (see `load_image`) to (image_size, image_size, 3) uint8.

    decode: "exact" gives the pixels of open_clip's own transform; "fast" decodes JPEGs at a smaller
    scale and resizes with another kernel (scaled.py).
    Raises InputError for another word; the function raises ImageError as `load_image` does.
    """
    if decode == "exact":
        return lambda source: preprocess.square(load_image(source))
    if decode == "fast":
        from mmfm.preprocess.scaled import fast_square

        return lambda source: fast_square(source, preprocess)
    raise InputError(f"decode is {decode!r}, wanted exact or fast")
