"""Anything that holds a picture -> a checked RGB picture, and pixels back to pictures.

Every picture of the package enters through `load_image`: one list of formats, one size cap read
from the header before any pixel is decoded, one rule per colour mode (modes.py), EXIF rotation
applied, nothing half decoded. `Preprocess` (transform.py) then makes the array that a tower reads.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

# why: Pillow knows these two only after it has imported all of its plugins
from PIL import TiffImagePlugin, WebPImagePlugin  # noqa: F401  isort: skip

from mmfm.errors import ImageError
from mmfm.preprocess.folder import list_images
from mmfm.preprocess.limits import MAX_PIXELS, check_exif, check_limits, check_size
from mmfm.preprocess.modes import to_rgb
from mmfm.preprocess.transform import Preprocess

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

__all__ = ["MAX_PIXELS", "Preprocess", "as_image_list", "load_image", "to_pil", "to_pixels"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # MPO, the phones' JPEG, opens as JPEG
MAX_BYTES = 2**30  # of what is read whole: twice the largest picture, raw, of 16 bits and alpha
_READ_AT_ONCE = 2**22
READ_WHOLE = (b"\xff\xd8", b"RI")  # JPEG and WebP begin so; they are looked at, then decoded, whole
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
        rgb = _finish(source, "the Pillow image")
        return _bare(rgb.copy() if rgb is source else rgb)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    return with_file(source, decode)


def with_file(source: Any, read: Callable[[BinaryIO, str], T]) -> T:
    """read(file, name) of the encoded picture that a path, bytes or a binary file holds.

    The file can be sought and begins with the picture; the name is what an error calls it.
    Raises ImageError for what holds no bytes (missing, a folder, a URL, empty, an unknown type).
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _not_empty(io.BytesIO(bytes(source)), "the image bytes", read)
    if isinstance(source, (str, os.PathLike)):
        return _from_path(os.fspath(source), read)
    if hasattr(source, "read"):
        return _from_file(source, read)
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


def _from_path(path: str | bytes, read: Callable[[BinaryIO, str], T]) -> T:
    name = os.fsdecode(path)
    if _URL.match(name):
        raise ImageError(f"{name[:200]} is a URL; download the picture and give its path or bytes.")
    try:
        if os.path.isdir(path):
            raise ImageError(f"{name} is a folder; give one picture file of it.")
        if os.path.exists(path) and not os.path.isfile(path):
            raise ImageError(f"{name} is not a regular file; give a picture file.")
        with open(path, "rb") as file:
            return _not_empty(file, name, read)
    except FileNotFoundError as error:
        raise ImageError(f"No file at {name}; check the path.") from error
    except OSError as error:
        raise ImageError(f"Cannot open {name[:200]}: {error.strerror or error}.") from error
    except ValueError as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name[:200]!r} cannot be a path: {error}.") from error


def _from_file(file: Any, read: Callable[[BinaryIO, str], T]) -> T:
    name = str(getattr(file, "name", "the image file"))
    return _not_empty(io.BytesIO(read_whole(file, name)), name, read)


def read_whole(file: BinaryIO, name: str) -> bytes:
    """All that follows in a file. Raises ImageError where that is no bytes, or too many."""
    parts: list[bytes] = []
    for _ in range(MAX_BYTES // _READ_AT_ONCE):  # why in parts: `read` sets all it may need aside
        try:
            part = file.read(_READ_AT_ONCE)
        except Exception as error:
            raise ImageError(f"Cannot read {name}: {error}; open it for binary reading.") from error
        if not isinstance(part, bytes):
            raise ImageError(f"{name} gives text; open it in binary mode ('rb').")
        if not part:
            return b"".join(parts)
        parts.append(part)
    raise ImageError(f"{name} is over {MAX_BYTES // 2**20} MB; give a smaller picture.")


def _not_empty(file: BinaryIO, name: str, read: Callable[[BinaryIO, str], T]) -> T:
    if not file.read(1):
        raise ImageError(f"{name} is empty (0 bytes); wanted a picture.")
    file.seek(0)
    return read(file, name)


def decode(file: BinaryIO, name: str) -> Image.Image:
    """The first frame of an open, seekable binary file, by the rules of `load_image`."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        # why: with this switch, which is global, Pillow fills what is missing with grey in silence
        raise ImageError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on, so a cut picture would pass for whole; "
            "set it to False."
        )
    # why `except Exception`: on damaged files Pillow's plugins raise nearly anything (struct.error,
    # SyntaxError, KeyError, ZeroDivisionError, ...); for the user all mean the same
    try:
        if file.read(2) in READ_WHOLE and not isinstance(file, io.BytesIO):
            file.seek(0)
            file = io.BytesIO(read_whole(file, name))
        file.seek(0)
        check_limits(file, name)
        image = Image.open(file, formats=FORMATS)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(f"{name} does not fit in memory; free some, or shrink it.") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not a picture; wanted {', '.join(FORMATS)}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} is over {MAX_PIXELS // 10**6} megapixels; shrink it.") from error
    except Exception as error:
        raise ImageError(f"{name} is damaged: {error or type(error).__name__}.") from error
    with image:
        rgb = _finish(image, name)
        # why _new: it leaves the file's metadata behind, without a copy of the pixels, which would
        # cost a third of what decoding did
        return _bare(image._new(image.im) if rgb is image else rgb)


def _finish(image: Image.Image, name: str) -> Image.Image:
    """Check the size from the header, decode, make RGB, turn upright; maybe the same picture."""
    check_size(image.size, name)
    try:
        image.load()
        check_size(image.size, name)
        rgb = to_rgb(image, name)
        turn = UPRIGHT.get(orientation(image))
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(f"{name} does not fit in memory; free some, or shrink it.") from error
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ImageError(f"{name} is cut short or damaged: {reason}.") from error
    if turn is not None:
        rgb = rgb.transpose(turn)
    return rgb


def _bare(image: Image.Image) -> Image.Image:
    image.info = {}
    return image


def orientation(image: Image.Image) -> int:
    """The EXIF orientation 1..8; 1 when there is none or its block is damaged."""
    try:
        check_exif(_exif_block(image), "")
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # damaged EXIF is common and says nothing about the pixels
        return 1


def _exif_block(image: Image.Image) -> bytes:
    """Where `getexif` will look; a TIFF's own tags have been looked at before."""
    words = image.info.get("Raw profile type exif")  # of a PNG by ImageMagick: hexadecimal
    if "exif" in image.info or words is None:
        return image.info.get("exif", b"")
    return bytes.fromhex("".join(words.split("\n")[3:]))


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
