"""Pictures on their way into a shard keep their pixels, whatever they came as."""

import io

import numpy as np
import pytest
from PIL import Image

from mmfm.data.layouts.picture import cause_of, portable
from mmfm.errors import ImageError
from mmfm.preprocess.images import load_image

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (20, 30, 3), np.uint8)
RGBA = RANDOM.integers(0, 256, (20, 30, 4), np.uint8)
GREY_16 = RANDOM.integers(0, 65536, (20, 30), np.uint16)


def encode(array, kind, mode=None, **options):
    image = Image.fromarray(array)
    stream = io.BytesIO()
    (image.convert(mode) if mode else image).save(stream, kind, **options)
    return stream.getvalue()


def turned(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(RGB, kind, exif=exif)


OTHERS = {
    "gif": encode(RGB, "GIF"),
    "gif with transparency": encode(RGBA, "GIF"),
    "animated gif": encode(RGB, "GIF", save_all=True, append_images=[Image.new("RGB", (30, 20))]),
    "bmp": encode(RGB, "BMP"),
    "grey bmp": encode(RGB, "BMP", mode="L"),
    "black and white tiff": encode(RGB, "TIFF", mode="1"),
    "tiff with alpha": encode(RGBA, "TIFF"),
    "deep grey tiff": encode(GREY_16, "TIFF"),
    "float tiff": encode(RANDOM.random((20, 30)).astype(np.float32), "TIFF"),
    "integer tiff": encode(RANDOM.integers(-9, 9**6, (20, 30)).astype(np.int32), "TIFF"),
    "cmyk tiff": encode(RGB, "TIFF", mode="CMYK"),
    "tiff lying on its side": turned("TIFF"),
}
OURS = {
    "jpeg": encode(RGB, "JPEG"),
    "grey jpeg": encode(RGB, "JPEG", mode="L"),
    "jpeg lying on its side": turned("JPEG"),
    "png": encode(RGB, "PNG"),
    "png with alpha": encode(RGBA, "PNG"),
    "palette png": encode(RGB, "PNG", mode="P"),
    "deep grey png": encode(GREY_16, "PNG"),
    "webp": encode(RGBA, "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_become_png_of_equal_pixels(name):
    made = portable(OTHERS[name], "it")
    assert made.data.startswith(b"\x89PNG") and made.converted
    before, after = load_image(OTHERS[name]), load_image(made.data)
    assert after.tobytes() == before.tobytes()
    assert (made.width, made.height) == after.size == before.size


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("check", [True, False])
def test_jpeg_png_and_webp_stay_byte_for_byte(name, check):
    made = portable(OURS[name], "it", check=check)
    assert made.data == OURS[name] and not made.converted
    assert (made.width, made.height) == load_image(OURS[name]).size


@pytest.mark.parametrize("name", [*OURS, *OTHERS])
@pytest.mark.parametrize("size", [1, 7, 19])
def test_resizing_brings_the_shortest_side_down_and_is_done_once(name, size):
    made = portable({**OURS, **OTHERS}[name], "it", size=size)
    assert min(made.width, made.height) == size
    assert load_image(made.data).size == (made.width, made.height)
    again = portable(made.data, "it", size=size)
    assert again.data == made.data and not again.converted


@pytest.mark.parametrize("size", [20, 21, 500])
def test_a_small_picture_is_never_made_larger(size):
    assert portable(OURS["png"], "it", size=size).data == OURS["png"]


def test_hidden_colours_do_not_bleed_when_resized():
    clear = np.zeros((20, 20, 4), np.uint8)
    clear[:, :10] = (0, 0, 255, 255)
    clear[:, 10:] = (255, 0, 0, 0)  # red, but not to be seen
    made = portable(encode(clear, "PNG"), "it", size=5)
    pixels = np.asarray(load_image(made.data)).astype(int)
    assert (pixels[..., 0] <= pixels[..., 1] + 1).all()  # between blue and white there is no red


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "empty"),
        (b"<html>", "not-an-image"),
        (b"%PDF-1.4", "not-an-image"),
        (OURS["jpeg"][:300], "damaged"),
        (OURS["png"][:300], "damaged"),
        (OURS["webp"][:60], "damaged"),
        (OTHERS["gif"][:900], "damaged"),
        (encode(np.zeros((8001, 8001), np.uint8), "PNG"), "too-large"),
    ],
    ids=["empty", "html", "pdf", "jpeg", "png", "webp", "gif", "huge"],
)
@pytest.mark.parametrize("size", [None, 5])
def test_what_cannot_be_used_has_a_cause_and_names_itself(data, cause, size):
    with pytest.raises(ImageError, match=r"^cats/1\.jpg") as told:
        portable(data, "cats/1.jpg", size=size)
    assert cause_of(told.value) == cause
