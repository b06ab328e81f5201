"""Anything that holds a picture -> a checked RGB picture, and pixels back to pictures.

Every picture of the package enters through `load_image`: one list of formats, one size cap read
from the header before any pixel is decoded, one rule per colour mode (modes.py), EXIF rotation
applied, nothing half decoded. `Preprocess` (transform.py) then makes the array that a tower reads.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

# why: Pillow knows these two only after it has imported all of its plugins
from PIL import TiffImagePlugin, WebPImagePlugin  # noqa: F401  isort: skip

from mmfm.errors import ImageError
from mmfm.preprocess.folder import list_images
from mmfm.preprocess.modes import to_rgb
from mmfm.preprocess.transform import Preprocess

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MAX_PIXELS", "Preprocess", "as_image_list", "load_image", "to_pil", "to_pixels"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # MPO, the phones' JPEG, opens as JPEG
MAX_PIXELS = 64_000_000  # width * height
_URL = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.\-]+://|data:)")
_EXIF_ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(source: Any) -> Image.Image:
    """One picture as an upright RGB Pillow image, without metadata.

    source: a path, bytes, a binary file, a Pillow image, or a numpy array (H, W), (H, W, 3) or
    (H, W, 4), uint8 or float in [0, 1]. Formats: JPEG (and MPO), PNG, WebP, GIF, BMP, TIFF. Of an
    animation the first frame (of a Pillow image the frame it stands at). Alpha goes on white; the
    other colour rules are in modes.py. A source that is already a Pillow image is not changed.

    Raises ImageError naming the source: missing, a folder, a URL, empty, not a picture, cut short,
    over 64 megapixels, NaN pixels, an unknown type.
    """
    if isinstance(source, Image.Image):
        return _finish(source, "the Pillow image")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(bytes(source)), "the image bytes")
    if isinstance(source, (str, os.PathLike)):
        return _from_path(os.fspath(source))
    if hasattr(source, "read"):
        return _from_file(source)
    raise ImageError(
        f"Got {type(source).__name__} where a picture was wanted; give a path, bytes, a Pillow "
        "image or a numpy array."
    )


def as_image_list(images: Any) -> list[Any]:
    """What a caller may pass as `images` -> a list of sources, each fit for `load_image`.

    One source gives a list of one; a folder gives its pictures (folder.list_images); an array
    (N, H, W, C) gives N arrays; any other iterable gives its items. Nothing is decoded here.

    Raises ImageError when there is no picture in it, DataError for a folder without pictures.
    """
    if isinstance(images, (str, os.PathLike)):
        return list_images(images) if _is_folder(os.fspath(images)) else [images]
    if isinstance(images, np.ndarray):
        sources = list(images) if images.ndim == 4 else [images]
    elif isinstance(images, (bytes, bytearray, memoryview, Image.Image)) or hasattr(images, "read"):
        sources = [images]
    elif isinstance(images, Iterable):
        sources = list(images)
    else:
        sources = [images]  # load_image says what is wrong with it
    if not sources:
        raise ImageError("Got an empty list of pictures; give at least one.")
    return sources


def to_pixels(image: Image.Image, size: int) -> np.ndarray:
    """RGB picture -> (3, size, size) float32 in [-1, 1]; shortest side resized, centre kept."""
    return Preprocess(image_size=size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))(image)


def to_pil(images: Tensor | np.ndarray) -> list[Image.Image]:
    """(B, 3, H, W) float in [-1, 1] (values beyond are clipped) -> B RGB pictures.

    Raises ImageError for another shape, or NaN.
    """
    # why: bfloat16 has no numpy type, so a tensor is widened before it leaves torch
    array = images if isinstance(images, np.ndarray) else images.detach().float().cpu().numpy()
    if array.ndim != 4 or array.shape[1] != 3:
        raise ImageError(f"Got pixels of shape {array.shape}, wanted (B, 3, H, W).")
    if np.isnan(array).any():
        raise ImageError("Got NaN pixels, wanted [-1, 1]; the model that made them failed.")
    bytes_ = np.rint((np.clip(array.astype(np.float32), -1, 1) + 1) * 127.5).astype(np.uint8)
    return [Image.fromarray(np.ascontiguousarray(one.transpose(1, 2, 0))) for one in bytes_]


def _is_folder(path: str | bytes) -> bool:
    try:
        return os.path.isdir(path)
    except ValueError:  # a NUL inside the name
        return False


def _from_path(path: str | bytes) -> Image.Image:
    name = os.fsdecode(path)
    if _URL.match(name):
        raise ImageError(f"{name[:200]} is a URL; download the picture and give its path or bytes.")
    try:
        if os.path.isdir(path):
            raise ImageError(f"{name} is a folder; give one picture file of it.")
        if os.path.exists(path) and not os.path.isfile(path):
            raise ImageError(f"{name} is not a regular file; give a picture file.")
        with open(path, "rb") as file:
            return _decode(file, name)
    except FileNotFoundError as error:
        raise ImageError(f"No file at {name}; check the path.") from error
    except OSError as error:
        raise ImageError(f"Cannot open {name[:200]}: {error.strerror or error}.") from error
    except ValueError as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name[:200]!r} cannot be a path: {error}.") from error


def _from_file(file: Any) -> Image.Image:
    name = str(getattr(file, "name", "the image file"))
    try:
        data = file.read()
    except Exception as error:
        raise ImageError(f"Cannot read {name}: {error}; open it for binary reading.") from error
    if not isinstance(data, bytes):
        raise ImageError(f"{name} gives text; open it in binary mode ('rb').")
    return _decode(io.BytesIO(data), name)


def _decode(file: Any, name: str) -> Image.Image:
    """The first frame of an open, seekable binary file."""
    if not file.read(1):
        raise ImageError(f"{name} is empty (0 bytes); wanted a picture.")
    file.seek(0)
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        # why: with this switch, which is global, Pillow fills what is missing with grey in silence
        raise ImageError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on, so a cut picture would pass for whole; "
            "set it to False."
        )
    # why `except Exception`: on damaged files Pillow's plugins raise nearly anything (struct.error,
    # SyntaxError, KeyError, ZeroDivisionError, ...); for the user all mean the same
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not a picture; wanted {', '.join(FORMATS)}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} is over {MAX_PIXELS // 10**6} megapixels; shrink it.") from error
    except Exception as error:
        raise ImageError(f"{name} is damaged: {error or type(error).__name__}.") from error
    with image:
        return _finish(image, name)


def _finish(image: Image.Image, name: str) -> Image.Image:
    """Check the size from the header, decode, turn upright, make RGB, forget the metadata."""
    check_size(image.size, name)
    try:
        image.load()
        check_size(image.size, name)
        rgb = to_rgb(image, name)
        turn = UPRIGHT.get(orientation(image))
    except ImageError:
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ImageError(f"{name} is cut short or damaged: {reason}.") from error
    if turn is not None:
        rgb = rgb.transpose(turn)
    rgb.info = {}
    return rgb


def check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name} is {width} x {height} pixels; wanted at least 1 x 1.")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} is {width} x {height} pixels, over the {MAX_PIXELS // 10**6} megapixels "
            "allowed; shrink it."
        )


def orientation(image: Image.Image) -> int:
    """The EXIF orientation 1..8; 1 when there is none or its block is damaged."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # damaged EXIF is common and says nothing about the pixels
        return 1


def _from_array(array: np.ndarray) -> Image.Image:
    got = f"Got a {array.dtype} array of shape {array.shape}"
    channels = array.shape[2:] if array.ndim in (2, 3) else None
    if channels not in ((), (3,), (4,)) or 0 in array.shape:
        raise ImageError(f"{got}, wanted (H, W), (H, W, 3) or (H, W, 4) with channels last.")
    check_size((array.shape[1], array.shape[0]), "the array")
    if np.issubdtype(array.dtype, np.floating):
        # written so that NaN fails too
        if not ((array >= 0) & (array <= 1)).all():
            raise ImageError(f"{got} with values outside [0, 1] or NaN; scale it to [0, 1].")
        array = np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ImageError(f"{got}, wanted uint8 or float in [0, 1]; convert it.")
    return to_rgb(Image.fromarray(np.ascontiguousarray(array)), "the array")
