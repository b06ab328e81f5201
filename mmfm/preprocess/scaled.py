"""An encoded picture -> square uint8 pixels, at the least cost its format allows.

The inverse DCT of a JPEG can give 1/2, 1/4 or 1/8 of the size for less work than the whole picture
and without its aliasing, so a large JPEG is decoded near the size wanted and resized from there.
simplejpeg does it when it is installed (`pip install 'mmfm[data]'`), else Pillow's draft mode: the
same pixels from the same libjpeg-turbo, some 1.2 to 3 times slower. Whatever is not a plain 8-bit
grey or colour JPEG, and whatever fails, goes through `load_image`, whose result or error stands.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from mmfm.errors import InputError
from mmfm.preprocess.images import (
    UPRIGHT,
    decode,
    load_image,
    orientation,
    read_whole,
    with_file,
)
from mmfm.preprocess.limits import MAX_SEGMENTS, check_jpeg, check_size
from mmfm.preprocess.transform import MAX_SHRINK, Preprocess, without_extremes

Box = tuple[float, float, float, float]  # left, top, right, bottom; pixels of the upright picture
Crop = Callable[[int, int], Box]  # (width, height) of the upright picture -> what is kept of it

MODES = ("shortest", "squash", "longest")
INTERPOLATIONS = ("bicubic", "bilinear")
_SCALES = (8, 4, 2)  # both libraries can divide by these; the odd ones only simplejpeg
_EMBED_MARGIN = 1.0  # see `fast_square`
_SOI = b"\xff\xd8"
_MAX_ASPECT = 16  # a longer picture is cut before it is resized
_LEAST_SCALED = 16  # below so many pixels two scales can round to one size
_EXIF = 0xE1  # also XMP, which may hold the orientation too
_SOF_8_BIT = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # every start of frame there is
_PROGRESSIVE = 0xC2
_SOS = 0xDA


def decode_square(
    data: bytes,
    size: int,
    *,
    mode: str = "shortest",
    crop: Crop | None = None,
    margin: float = 2.0,
    interpolation: str = "bicubic",
    fill: int = 0,
    out: np.ndarray | None = None,
    name: str = "the image bytes",
) -> np.ndarray:
    """One encoded picture -> (size, size, 3) uint8 RGB, upright, alpha on white.

    mode: "shortest" resizes the shortest side and keeps the centre, "squash" resizes both,
    "longest" resizes the longest and pads with the grey level `fill`; the geometry is that of
    `Preprocess`. crop: what to keep instead, resized to the square; its box is rounded to whole
    decoded pixels. margin: a JPEG is decoded at the smallest scale of 1, 1/2, 1/4
    and 1/8 that leaves at least margin * size pixels of what is kept. Against decoding it whole, 2
    changes noise of a photograph's spectrum by 0.6 levels of 255 on average (PSNR 49 dB), 1 by 2
    levels (39 dB) for 7 % less time. out: a (size, size, 3) uint8 array, contiguous, that takes
    the result. name: what errors call the picture.

    A picture of size x size pixels comes out as it is, bit for bit. Raises ImageError as
    `load_image` does (not a picture, cut short, over 64 megapixels), InputError for wrong settings.
    """
    if mode not in MODES or interpolation not in INTERPOLATIONS or size < 1 or margin < 1:
        raise InputError(
            f"Got mode={mode!r}, interpolation={interpolation!r}, size={size}, margin={margin}; "
            f"wanted one of {MODES}, one of {INTERPOLATIONS}, size >= 1, margin >= 1."
        )
    header, square = _read_header(data, name), None
    if header == (size, size, None) and crop is None:  # nothing to scale, turn or resize
        square = _decode_jpeg(data, size, size, 1, out)
    if square is None:
        pixels, extent, box = _decode(data, header, crop, margin * size, name)
        square = _fit(pixels, extent, size, box, mode, interpolation, fill)
    if out is None:
        return np.ascontiguousarray(square)
    out[...] = square
    return out


def fast_square(source: Any, preprocess: Preprocess) -> np.ndarray:
    """What `load_image` takes -> (S, S, 3) uint8, near what `preprocess.square` makes of it.

    JPEGs are decoded at the smallest scale that leaves the sides wanted: embeddings then keep a
    cosine of 0.9997 or more to those of the whole picture, and doubling the scale costs a fifth of
    the time (docs/experiments.md). Raises ImageError as `load_image` does.
    """
    size, mode = preprocess.image_size, preprocess.resize_mode
    options: dict[str, Any] = {"interpolation": preprocess.interpolation, "fill": preprocess.fill}

    def read(file: BinaryIO, name: str) -> np.ndarray:
        jpeg = file.read(2) == _SOI
        file.seek(0)
        if not jpeg:
            return fit(decode(file, name))
        data = read_whole(file, name)
        return decode_square(data, size, mode=mode, margin=_EMBED_MARGIN, name=name, **options)

    def fit(image: Image.Image) -> np.ndarray:
        return _fit(np.asarray(image), image.size, size, None, mode, **options)

    if isinstance(source, (Image.Image, np.ndarray)):
        return fit(load_image(source))
    return with_file(source, read)


def fit_square(
    pixels: np.ndarray, size: int, crop: Crop | None = None, interpolation: str = "bicubic"
) -> np.ndarray:
    """(H, W, 3) uint8 -> (size, size, 3) uint8: `crop`, or the shortest side and the centre."""
    height, width = pixels.shape[:2]
    box = crop(width, height) if crop else None
    return _fit(pixels, (width, height), size, box, "shortest", interpolation, 0)


class _Header(NamedTuple):
    """What a JPEG says of itself before its pixels begin."""

    width: int  # as stored, before it is turned upright
    height: int
    turn: Image.Transpose | None

    @property
    def upright(self) -> tuple[int, int]:
        swaps = self.turn in _SWAPS
        return (self.height, self.width) if swaps else (self.width, self.height)


_SWAPS = {UPRIGHT[number] for number in (5, 6, 7, 8)}


def _read_header(data: bytes, name: str) -> _Header | None:
    """None for whatever is not a plain JPEG: `load_image` then says what it is."""
    if data[:2] != _SOI:
        return None
    place, end, frame, tagged = 2, len(data) - 9, None, False
    channels, segments, progressive = 0, 0, False
    while place < end and data[place] == 0xFF and segments <= MAX_SEGMENTS:
        marker = data[place + 1]
        segments += 1
        if marker in _SOF:
            channels = data[place + 9]
            if marker not in _SOF_8_BIT or data[place + 4] != 8 or channels not in (1, 3) or frame:
                return None
            progressive = marker == _PROGRESSIVE
            frame = data[place + 7 : place + 9], data[place + 5 : place + 7]
        elif marker == _SOS:
            if tagged or progressive or data[place + 4] < channels:  # more scans follow
                check_jpeg(data, name)  # which looks closer
            break
        elif not 0xC4 <= marker <= 0xFE or 0xD0 <= marker <= 0xD9:  # no segment with a length
            return None
        tagged |= marker == _EXIF
        place += 2 + (data[place + 2] << 8) + data[place + 3]
    else:
        return None
    if frame is None:
        return None
    width, height = (int.from_bytes(side, "big") for side in frame)
    if not width or not height:
        return None
    check_size((width, height), name)
    return _Header(width, height, _read_turn(data) if tagged else None)


def _read_turn(data: bytes) -> Image.Transpose | None:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return UPRIGHT.get(orientation(image))
    except Exception:  # damaged: decoding it says so, in `load_image`'s words
        return None


def _decode(
    data: bytes, header: _Header | None, crop: Crop | None, least: float, name: str
) -> tuple[np.ndarray, tuple[int, int], Box | None]:
    """Upright pixels at scale 1 or less, (width, height) at scale 1, what to keep of them."""
    if header is not None:
        extent = header.upright
        box = crop(*extent) if crop else None
        left, top, right, bottom = box or (0, 0, *extent)
        scale = _choose_scale(min(right - left, bottom - top), least)
        pixels = _decode_jpeg(data, header.width, header.height, scale)
        if pixels is not None:
            if header.turn is not None:
                pixels = np.array(Image.fromarray(pixels).transpose(header.turn))
            return pixels, extent, box
    image = decode(io.BytesIO(data), name) if data else load_image(data)
    return np.asarray(image), image.size, crop(*image.size) if crop else None


def _choose_scale(side: float, least: float) -> int:
    """The largest divisor that leaves `least` pixels of a side."""
    least = max(least, _LEAST_SCALED)
    return next((scale for scale in _SCALES if side / scale >= least), 1)


@cache
def simplejpeg() -> Any:
    """The module, or None where it is not installed."""
    try:
        import simplejpeg as module
    except ImportError:
        return None
    return module


def _decode_jpeg(
    data: bytes, width: int, height: int, scale: int, out: np.ndarray | None = None
) -> np.ndarray | None:
    """(H / scale, W / scale, 3) uint8, sides rounded up; None when it cannot be done.

    width, height: of the whole picture. out: takes the result, when it has that shape.
    """
    back_end = simplejpeg()
    shape = (-(-height // scale), -(-width // scale), 3)
    try:
        if back_end is None:
            pixels = _draft(data, width // scale, height // scale)
        elif scale == 1:
            pixels = back_end.decode_jpeg(data, buffer=out)
        else:
            pixels = back_end.decode_jpeg(data, min_height=shape[0], min_width=shape[1])
    except Exception:  # damaged, or what this back end cannot do: `load_image` decides
        return None
    return pixels if pixels.shape == shape else None


def _draft(data: bytes, width: int, height: int) -> np.ndarray:
    """Decoded at the smallest scale that leaves these sides."""
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.draft(None, (width, height))
        image.load()
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _fit(
    pixels: np.ndarray, size: tuple[int, int], side: int, box: Box | None, mode: str,
    interpolation: str, fill: int,
) -> np.ndarray:  # fmt: skip
    """Pixels of a picture of `size` (width, height), at that or a smaller scale, to the square."""
    width, height = size
    if box is None and mode == "shortest":
        short, long = min(size), max(size)
        if long <= _MAX_ASPECT * short:
            long = int(side * long / short)  # torchvision's Resize rounds down
            new = (side, long) if width <= height else (long, side)
            x, y = (round((length - side) / 2.0) for length in new)
            return _resize(pixels, *new, interpolation)[y : y + side, x : x + side]
        left, top = (width - short) / 2, (height - short) / 2
        box = (left, top, left + short, top + short)
    elif box is None and mode == "longest":
        ratio = max(size) / side
        new_width, new_height = (max(1, round(length / ratio)) for length in size)
        square = np.full((side, side, 3), fill, np.uint8)
        x, y = (side - new_width) // 2, (side - new_height) // 2
        resized = _resize(pixels, new_width, new_height, interpolation)
        square[y : y + new_height, x : x + new_width] = resized
        return square
    if box is not None:
        pixels = _cut(pixels, box, pixels.shape[1] / width, pixels.shape[0] / height)
    return _resize(pixels, side, side, interpolation)


def _cut(pixels: np.ndarray, box: Box, across: float, down: float) -> np.ndarray:
    """What lies in the box, of at least one pixel; its edges are rounded to whole pixels."""
    left, top = round(box[0] * across), round(box[1] * down)
    left, top = min(left, pixels.shape[1] - 1), min(top, pixels.shape[0] - 1)
    right, bottom = max(left + 1, round(box[2] * across)), max(top + 1, round(box[3] * down))
    return pixels[top:bottom, left:right]


def _resize(pixels: np.ndarray, width: int, height: int, method: str) -> np.ndarray:
    """(H, W, 3) uint8 -> (height, width, 3) uint8, antialiased; nothing is done at equal sizes."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if max(pixels.shape[0] / height, pixels.shape[1] / width) > MAX_SHRINK:
        pixels = np.asarray(without_extremes(Image.fromarray(pixels), width, height))
    # why torch: its kernel is Pillow's, vectorised: within 2 of 255, four times faster. why here:
    # whoever only reads and checks pictures does not pay for importing it
    import torch
    from torch.nn.functional import interpolate

    pixels = np.require(pixels, requirements=("C_CONTIGUOUS", "WRITEABLE"))
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    resized = interpolate(planes, (height, width), mode=method, antialias=True)
    return resized[0].permute(1, 2, 0).numpy()
