"""`load_image`: the right pixels or one ImageError, for every picture a person may have."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from mmfm.errors import ImageError
from mmfm.preprocess.images import load_image

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(source) -> np.ndarray:
    image = load_image(source)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_keep_every_pixel_from_path_bytes_and_file(tmp_path, kind):
    array = noise(9, 13)
    path = tmp_path / "picture"
    path.write_bytes(encoded(Image.fromarray(array), kind, lossless=True))
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        np.testing.assert_array_equal(pixels(source), array)
    with open(path, "rb") as file:
        np.testing.assert_array_equal(pixels(file), array)
        assert not file.closed


@pytest.mark.parametrize("opened", [False, True])
def test_a_pillow_image_is_not_changed_and_shares_no_pixels(opened):
    image = Image.fromarray(noise(4, 4))
    image.info["comment"] = b"mine"
    if opened:
        image = Image.open(io.BytesIO(encoded(image, "PNG", dpi=(72, 72))))
    told = dict(image.info)
    loaded = load_image(image)
    loaded.paste(RED, (0, 0, 4, 4))
    np.testing.assert_array_equal(np.asarray(image), noise(4, 4))
    assert image.info == told and told
    assert loaded.info == {}


def test_metadata_stays_behind():
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        loaded = load_image(encoded(Image.fromarray(noise(8, 8)), kind, exif=exif))
        assert type(loaded) is Image.Image
        assert loaded.info == {} and not loaded.getexif()


# Not a picture


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_cut_file_is_refused_never_half_grey(tmp_path, kind, kept):
    whole = encoded(Image.fromarray(noise(64, 64)), kind)
    path = tmp_path / "cut.jpg"
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ImageError, match=r"cut\.jpg"):
        load_image(path)


def test_pillows_global_switch_for_cut_files_cannot_let_one_through(monkeypatch):
    whole = encoded(Image.fromarray(noise(64, 64)), "JPEG")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ImageError, match="LOAD_TRUNCATED_IMAGES"):
        load_image(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"<!doctype html><html><body>404</body></html>", "not a picture"),
        (b"\x89PNG\r\n\x1a\n", "picture|damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not a picture"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, content, says):
    path = tmp_path / "page.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=says) as caught:
        load_image(path)
    assert "page.png" in str(caught.value)


def test_formats_outside_the_list_are_refused():
    with pytest.raises(ImageError, match="wanted JPEG"):
        load_image(encoded(Image.new("RGB", (4, 4)), "PPM"))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("https://example.org/cat.png", "download"),
        ("data:image/png;base64,AAAA", "download"),
        ("missing/picture.png", "check the path"),
        ("nul\0byte.png", "cannot be a path"),
        ("x" * 5000, "Cannot open"),
        (3, "int"),
        (None, "NoneType"),
        (io.StringIO("text"), "binary"),
    ],
)
def test_sources_that_cannot_be_pictures(source, says):
    with pytest.raises(ImageError, match=says):
        load_image(source)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ImageError, match="folder"):
        load_image(tmp_path)


# Size


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header promises a size and whose body holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        sum_ = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + sum_

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8001, 10_000, 100_000])
def test_a_bomb_is_refused_from_its_header(side):
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match="megapixels"):
        load_image(png_claiming(side, side))
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_a_bomb_warning_made_an_error_is_an_image_error():
    with pytest.raises(ImageError, match="megapixels"):
        load_image(png_claiming(10_000, 10_000))


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_extreme_shapes_load(size):
    assert load_image(encoded(Image.new("RGB", size, RED), "PNG")).size == size


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(ImageError, match="at least 1 x 1"):
        load_image(Image.new("RGB", (0, 5)))


# Alpha


def test_hidden_colour_of_transparent_pixels_becomes_white():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[..., 0] = 255  # red everywhere, opaque in the first row only
    rgba[0, :, 3] = 255
    for source in (encoded(Image.fromarray(rgba), "PNG"), Image.fromarray(rgba), rgba):
        out = pixels(source)
        assert (out[0] == RED).all() and (out[1] == 255).all()


def test_half_transparent_black_is_mid_grey():
    out = pixels(Image.new("RGBA", (2, 2), (0, 0, 0, 128)))
    assert abs(int(out[0, 0, 0]) - 127) <= 1


@pytest.mark.parametrize("mode", ["LA", "PA", "La", "RGBa"])
def test_other_alpha_modes_show_white_where_transparent(mode):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 0, 255))
    via = {"PA": "PA", "La": "LA", "LA": "LA", "RGBa": "RGBa"}[mode]
    image = image.convert(via)
    image = image.convert("La") if mode == "La" else image
    out = pixels(image)
    assert (out[0, 0] == 0).all() and (out[0, 1] == 255).all()


@pytest.mark.parametrize("transparency", [1, bytes([255, 0])])
def test_palette_with_transparency(transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([*BLUE, *RED])
    image.putpixel((1, 0), 1)
    out = pixels(encoded(image, "PNG", transparency=transparency))
    assert (out[0, 0] == BLUE).all() and (out[0, 1] == 255).all()


def test_palette_without_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([*BLUE, *RED])
    image.putpixel((1, 0), 1)
    assert pixels(encoded(image, "PNG")).tolist() == [[list(BLUE), list(RED)]]


@pytest.mark.parametrize(("mode", "key"), [("RGB", RED), ("L", 7), ("I;16", 7)])
def test_colour_key_transparency(mode, key):
    image = Image.new(mode, (2, 1), 0 if mode != "RGB" else (0, 0, 0))
    image.putpixel((1, 0), key)
    out = pixels(encoded(image, "PNG", transparency=key))
    assert (out[0, 0] == 0).all() and (out[0, 1] == 255).all()


# Depth and colour


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_16_bit_ramp_keeps_its_mean(kind):
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (8, 1))
    out = pixels(encoded(Image.fromarray(ramp), kind))
    assert abs(out.mean() - 127.5) < 0.5
    assert out[0, 0, 0] == 0 and out[0, -1, 0] == 255


@pytest.mark.parametrize(("value", "expected"), [(2570, 10), (200, 1), (1, 0)])
def test_a_dark_16_bit_picture_stays_dark(value, expected):
    out = pixels(encoded(Image.fromarray(np.full((4, 4), value, np.uint16)), "PNG"))
    assert (out == expected).all()


@pytest.mark.parametrize("full", [1.0, 255.0, 65535.0])
def test_a_float_tiff_is_scaled_by_the_smallest_usual_range(full):
    ramp = np.tile(np.linspace(0, full, 256, dtype=np.float32), (4, 1))
    out = pixels(encoded(Image.fromarray(ramp), "TIFF"))
    np.testing.assert_array_equal(out[0, :, 0], np.arange(256))


def test_floats_outside_usual_ranges_are_stretched():
    out = pixels(Image.fromarray(np.array([[-2.0, 0.0, 2.0]], np.float32)))
    assert out[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(("top", "expected"), [(255, 255), (65535, 255), (10**8, 255), (0, 0)])
def test_32_bit_integers(top, expected):
    out = pixels(encoded(Image.fromarray(np.array([[0, top]], np.int32)), "TIFF"))
    assert out[0, :, 0].tolist() == [0, expected]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(value):
    image = Image.fromarray(np.array([[0.0, value]], np.float32))
    with pytest.raises(ImageError, match="NaN"):
        load_image(encoded(image, "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize("colour", [RED, GREEN, BLUE, (255, 255, 255), (0, 0, 0)])
def test_cmyk_keeps_its_colour(kind, colour):
    cmyk = Image.new("RGB", (16, 16), colour).convert("CMYK")
    data = encoded(cmyk, kind)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert np.abs(pixels(data).astype(int) - colour).max() <= 6


def test_adobe_cmyk_jpeg_is_inverted_on_disk_and_right_when_read():
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    assert b"Adobe" in data[:200]
    assert np.abs(pixels(data).astype(int) - RED).max() <= 6


def test_adobe_cmyk_of_another_encoder_keeps_its_colours():
    """As Photoshop and libjpeg have it: inks inverted on disk, told by the Adobe segment."""
    simplejpeg = pytest.importorskip("simplejpeg")
    inks = {RED: (0, 255, 255, 0), GREEN: (255, 0, 255, 0), (0, 0, 0): (0, 0, 0, 255)}
    for colour, ink in inks.items():
        stored = np.tile(255 - np.array(ink, np.uint8), (16, 16, 1))
        data = simplejpeg.encode_jpeg(stored, colorspace="CMYK", quality=95)
        assert b"Adobe" in data[:40] and Image.open(io.BytesIO(data)).mode == "CMYK"
        assert np.abs(pixels(data).astype(int) - colour).max() <= 6


@pytest.mark.parametrize("mode", ["1", "L", "YCbCr", "HSV", "LAB"])
def test_other_modes_keep_white_and_black(mode):
    image = Image.new("RGB", (2, 1), (255, 255, 255))
    image.putpixel((0, 0), (0, 0, 0))
    out = pixels(image.convert(mode)).astype(int)
    assert out[0, 0].max() <= 2 and out[0, 1].min() >= 253


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert np.abs(pixels(data).astype(int) - RED).max() <= 3


def test_mpo_the_jpeg_of_phones():
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert np.abs(pixels(data).astype(int) - RED).max() <= 3


# EXIF


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(kind, orientation):
    upright = np.zeros((16, 32, 3), np.uint8)  # four flat corners, so that JPEG keeps them
    upright[:8, :16], upright[:8, 16:], upright[8:, :16] = RED, GREEN, BLUE
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    options = {"lossless": True} if kind == "WEBP" else options
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)
    assert np.abs(pixels(data).astype(int) - upright).max() <= 3
    assert 0x0112 not in load_image(data).getexif()


def test_damaged_exif_does_not_cost_the_picture():
    data = encoded(Image.new("RGB", (8, 8), RED), "JPEG", exif=b"Exif\0\0garbage")
    assert np.abs(pixels(data).astype(int) - RED).max() <= 3


# Arrays


def test_arrays_of_the_three_shapes():
    grey, rgb = noise(5, 7, 1), noise(5, 7)
    np.testing.assert_array_equal(pixels(grey), np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(pixels(rgb), rgb)
    np.testing.assert_array_equal(pixels(rgb[:, ::-1]), rgb[:, ::-1])
    for dtype in (np.float16, np.float32, np.float64):
        np.testing.assert_array_equal(pixels((rgb / 255).astype(dtype)), rgb)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((8, 8, 1), np.uint8),
        np.zeros((8,), np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.int64),
        np.zeros((8, 8, 3), bool),
        np.full((8, 8, 3), 255.0),
        np.full((8, 8, 3), -0.1),
        np.full((8, 8), np.nan),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_that_are_no_pictures(array):
    with pytest.raises(ImageError):
        load_image(array)


def test_loading_needs_no_torch():
    code = (
        "import sys, mmfm.preprocess.images, mmfm.preprocess.text; "
        "sys.exit(bool({'torch', 'open_clip', 'torchvision'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
