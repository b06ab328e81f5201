"""The picture of a sample on its way into a shard: checked, portable, and no larger than asked."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image, ImageOps

from mmfm.errors import ImageError
from mmfm.preprocess.images import FORMATS, load_image, orientation

PORTABLE = ("JPEG", "PNG", "WEBP")  # what a shard holds
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # that PNG keeps without loss
_CAUSES = {  # a word of the ImageError -> the short word it is counted under
    "is empty": "empty",
    "is not a picture": "not-an-image",
    "too large": "too-large",
    "megapixels": "too-large",
    "cut short": "damaged",
    "is damaged": "damaged",
}


@dataclass(frozen=True)
class Picture:
    """Encoded bytes fit for a shard; width and height upright, in pixels.

    format: as it came. converted: whether the bytes are new.
    """

    data: bytes
    width: int
    height: int
    format: str
    converted: bool = False


def cause_of(error: ImageError) -> str:
    """The short word under which an ImageError is counted."""
    return next((cause for words, cause in _CAUSES.items() if words in str(error)), "unreadable")


def portable(data: bytes, name: str, *, check: bool = True, size: int | None = None) -> Picture:
    """The picture in `data` as JPEG, PNG or WebP; those three are not changed unless resized.

    check: decode it whole. size: bring the shortest side down to this many pixels.
    Raises ImageError, calling the picture `name`.
    """
    header = _header(data, name)
    kind, width, height = _measure(header)
    pixels = None
    if check or kind not in PORTABLE:
        pixels = _decode(data, name)
    if size is not None and min(width, height) > size:
        resized = _shrink(data, kind, size, pixels or _decode(data, name))
        return Picture(*resized, format=kind, converted=True)
    if kind not in PORTABLE:
        assert pixels is not None
        return Picture(_as_png(header, pixels), *pixels.size, format=kind, converted=True)
    return Picture(data, width, height, kind)


def _header(data: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception:  # load_image says what is wrong, by its own checks
        _decode(data, name)
        raise ImageError(f"{name} is damaged: its header cannot be read.") from None


def _measure(header: Image.Image) -> tuple[str, int, int]:
    """(format, width, height), upright."""
    kind = "JPEG" if header.format == "MPO" else str(header.format)
    width, height = header.size
    return (kind, height, width) if orientation(header) >= 5 else (kind, width, height)


def _decode(data: bytes, name: str) -> Image.Image:
    try:
        return load_image(data)
    except ImageError as error:
        raise ImageError(str(error).replace("the image bytes", name)) from None


def _as_png(image: Image.Image, pixels: Image.Image) -> bytes:
    """PNG of the first frame in its own mode, or of `pixels` (RGB) where PNG has no such mode."""
    if image.mode in _PNG_MODES:
        encoded = _encode(ImageOps.exif_transpose(image), "PNG")
        if load_image(encoded).tobytes() == pixels.tobytes():
            return encoded
    return _encode(pixels, "PNG")


def _shrink(data: bytes, kind: str, size: int, pixels: Image.Image) -> tuple[bytes, int, int]:
    width, height = pixels.size
    scale = size / min(width, height)
    target = (max(size, round(width * scale)), max(size, round(height * scale)))
    if kind == "JPEG":
        return _encode(pixels.resize(target, Image.Resampling.LANCZOS), "JPEG"), *target
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.has_transparency_data:
            # why RGBa: colours weighted by alpha, or hidden ones would bleed over the edges
            clear = ImageOps.exif_transpose(image).convert("RGBA").convert("RGBa")
            small = clear.resize(target, Image.Resampling.LANCZOS).convert("RGBA")
        else:
            small = pixels.resize(target, Image.Resampling.LANCZOS)
    return _encode(small, "PNG"), *target


def _encode(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return stream.getvalue()
