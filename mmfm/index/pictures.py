"""Pictures on disk -> vectors and sizes: all that an index needs of Pillow and of a model's stream.

A model that can decode ahead while it computes (`embedder.stream_images`) is asked so; of any other
`embed_images` is enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmfm.errors import ImageError, ModelError
from mmfm.preprocess.images import FORMATS, load_image, orientation

_BATCH = 64
_BATCH_PIXELS = 64_000_000  # decoded at once: 192 MB of RGB
_PNG_ORIENTATIONS = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")  # where one may stand
_SWAPS_SIDES = 5  # EXIF orientations from here on


def vectors_of(
    model: Any, paths: Sequence[Path], batch_size: int | None, settings: Mapping[str, Any]
) -> Iterator[np.ndarray | ImageError]:
    """In the order of `paths`, the (D,) float32 vector of each, or why it cannot be read.

    settings: further options of `embed_images`. Raises ModelError when the model gives no vectors.
    """
    options = {**settings, **({} if batch_size is None else {"batch_size": batch_size})}
    stream = getattr(getattr(model, "embedder", None), "stream_images", None)
    found: Iterator[np.ndarray | ImageError]
    if stream is not None:
        found = (vector for _, vector in stream(paths, on_error="skip", **options))
    else:
        found = _one_after_the_other(model, paths, batch_size or _BATCH, options)
    for vector in found:
        if not isinstance(vector, ImageError) and not np.isfinite(vector).all():
            raise ModelError("The model gave NaN or infinity for a picture; its weights are bad.")
        yield vector


def _one_after_the_other(
    model: Any, paths: Sequence[Path], batch_size: int, options: Mapping[str, Any]
) -> Iterator[np.ndarray | ImageError]:
    read: list[Image.Image | ImageError] = []
    pixels = 0
    for path in paths:
        try:
            image = load_image(path)
            pixels += image.width * image.height
            read.append(image)
        except ImageError as error:
            read.append(error)
        if len(read) >= batch_size or pixels >= _BATCH_PIXELS:
            yield from _embedded(model, read, options)
            read, pixels = [], 0
    yield from _embedded(model, read, options)


def _embedded(
    model: Any, read: Sequence[Image.Image | ImageError], options: Mapping[str, Any]
) -> Iterator[np.ndarray | ImageError]:
    images = [one for one in read if not isinstance(one, ImageError)]
    vectors = np.asarray(model.embed_images(images, **options) if images else np.empty((0, 0)))
    if vectors.ndim != 2 or len(vectors) != len(images):
        raise ModelError(
            f"The model gave vectors {vectors.shape} for {len(images)} pictures; wanted a row each."
        )
    left = iter(vectors.astype(np.float32))
    for one in read:
        yield one if isinstance(one, ImageError) else next(left)


def size_of(path: Path) -> dict[str, int]:
    """Width and height in pixels as the picture is seen, from its header; {} if unreadable."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            # why: in a PNG these may stand behind the pixels, and Pillow decodes all to look there
            is_plain = image.format == "PNG" and not _has_any(path, _PNG_ORIENTATIONS)
            if not is_plain and orientation(image) >= _SWAPS_SIDES:
                width, height = height, width
    except Exception:  # why: Pillow raises nearly anything; a vector from a store is enough
        return {}
    return {"width": width, "height": height}


def _has_any(path: Path, words: Sequence[bytes]) -> bool:
    data = path.read_bytes()
    return any(word in data for word in words)
