"""What `encode` may be given: which of it is one input or many, and which are texts or pictures."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from mmfm.errors import ImageError, InputError, TextError
from mmfm.preprocess.folder import IMAGE_SUFFIXES

MODALITIES = ("text", "image")
_URL = re.compile(r"(https?://\S+|data:image/.*)", re.IGNORECASE | re.DOTALL)
_CHANNELS = (1, 3, 4)
_SINGLE = (str, bytes, bytearray, memoryview, dict, os.PathLike, Image.Image, Tensor)


class Input(NamedTuple):
    """modality: "text" or "image"; value: the string, or what `load_image` takes."""

    modality: str
    value: Any


def is_single(inputs: Any) -> bool:
    """Whether this is one input; lists, tuples, arrays of strings and the like hold many."""
    if isinstance(inputs, np.ndarray):
        return inputs.ndim == 0 or inputs.dtype.kind not in "UO"
    return (
        isinstance(inputs, _SINGLE) or hasattr(inputs, "read") or not isinstance(inputs, Iterable)
    )


def as_input(value: Any, modality: str | None = None) -> Input:
    """Tell whether one value is a text or a picture, by the rules of sentence-transformers 6.2.

    A str is a text, unless it names an existing file that ends as pictures do; where that library
    would download (a URL of a picture, a data URI) we refuse. A dict has one key, "text" or
    "image". Everything else is a picture: path, bytes, file, Pillow image, array or tensor (H, W),
    (H, W, C) or (C, H, W). modality: "text" or "image" says it instead, for values without a key.

    Raises InputError (TextError, ImageError) for what is neither.
    """
    if modality not in (None, *MODALITIES):
        raise InputError(f"modality is {modality!r}, wanted text, image or None")
    if isinstance(value, dict):
        return _of_dict(value)
    if isinstance(value, str) and modality != "image":
        return Input("image" if modality is None and _names_picture(value) else "text", value)
    if modality == "text":
        raise TextError(f"Got {type(value).__name__} where a text was wanted.")
    if isinstance(value, (list, tuple)):
        raise InputError(
            f"an input is a {type(value).__name__}; pairs and chats are not read, give texts and "
            "pictures one by one"
        )
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        value = _channels_last(value)
    return Input("image", value)


def _of_dict(value: dict) -> Input:
    keys = sorted(map(str, value))
    if len(keys) != 1 or keys[0] not in MODALITIES:
        raise InputError(f"an input has the keys {keys}, wanted one of them: text or image")
    return as_input(value[keys[0]], keys[0])


def _names_picture(text: str) -> bool:
    plain = text.split("?")[0].split("#")[0] if _URL.fullmatch(text) else text
    if not (text.lower().startswith("data:image/") or plain.lower().endswith(IMAGE_SUFFIXES)):
        return False
    if _URL.fullmatch(text):
        raise ImageError(
            f"{text[:200]} is a URL of a picture; download it, or pass modality='text' to embed "
            "the words of the URL."
        )
    try:
        return os.path.isfile(text)
    except ValueError:  # a NUL inside
        return False


def _channels_last(array: np.ndarray) -> np.ndarray:
    """(C, H, W) -> (H, W, C), where the shape leaves no doubt."""
    if array.ndim == 3 and array.shape[0] in _CHANNELS and array.shape[2] not in _CHANNELS:
        array = array.transpose(1, 2, 0)
    return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
