"""Any bytes at all give `load_image` a picture or an ImageError, never another exception."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmfm.errors import ImageError
from mmfm.preprocess.images import load_image

MAGIC = [
    b"",
    b"\xff\xd8\xff\xe0",
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    b"GIF89a",
    b"BM",
    b"II*\0\x08\0\0\0",
    b"MM\0*",
    b"RIFF\x24\0\0\0WEBPVP8 ",
]


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(MAGIC), st.binary(max_size=200))
def test_random_bytes_give_an_image_error_and_nothing_else(magic, tail):
    with contextlib.suppress(ImageError):
        load_image(magic + tail)


def encoded(kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


WHOLE = {kind: encoded(kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")}


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
def test_damaged_pictures_give_a_picture_or_an_image_error(kind, at, patch):
    data = bytearray(WHOLE[kind])
    at %= len(data)
    data[at : at + len(patch)] = patch
    with contextlib.suppress(ImageError):
        assert load_image(bytes(data)).mode == "RGB"
