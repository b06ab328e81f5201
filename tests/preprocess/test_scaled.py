"""Scaled decoding: near the whole decoding, equal to it at equal size, and as safe."""

import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmfm.errors import ImageError, InputError
from mmfm.preprocess import scaled
from mmfm.preprocess.images import MAX_PIXELS, Preprocess, load_image
from mmfm.preprocess.scaled import decode_square, fit_square


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth random landscape, so that two ways of resizing it can be compared."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8))


def encode(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def whole(data: bytes, size: int, mode: str = "shortest") -> np.ndarray:
    """What the transform of a backbone makes of the picture decoded whole, as bytes."""
    plain = Preprocess(image_size=size, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=mode)
    return np.rint(255 * plain(load_image(data))).astype(np.uint8).transpose(1, 2, 0)


def gap(a: np.ndarray, b) -> np.ndarray:
    return np.abs(a.astype(int) - np.asarray(b).astype(int))


JPEGS = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "low quality": {"quality": 20},
}


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("size", [(64, 64), (67, 93), (301, 130), (517, 640)])
@pytest.mark.parametrize("channels", [1, 3])
def test_both_back_ends_give_the_same_bits(monkeypatch, options, size, channels):
    pytest.importorskip("simplejpeg")
    data = encode(noise(*size, channels), **options)
    assert scaled.simplejpeg() is not None
    fast = [decode_square(data, 64, margin=margin) for margin in (1, 2, 4)]
    monkeypatch.setattr(scaled, "simplejpeg", lambda: None)
    slow = [decode_square(data, 64, margin=margin) for margin in (1, 2, 4)]
    assert np.array_equal(fast, slow)


@pytest.mark.parametrize(
    "data",
    [
        encode(noise(48, 48)),
        encode(noise(48, 48, 1)),
        encode(noise(48, 48), "PNG"),
        encode(noise(48, 48, 4), "PNG"),
        encode(noise(48, 48, 4), "WEBP", lossless=True),
        encode(noise(48, 48).quantize(9), "GIF"),
        encode(noise(48, 48).convert("CMYK")),
        encode(Image.fromarray(np.arange(48 * 48, dtype=np.uint16).reshape(48, 48)), "PNG"),
        encode(noise(48, 48), "WEBP", save_all=True, append_images=[picture(48, 48)]),
    ],
    ids=["jpeg", "grey", "png", "alpha", "webp", "gif", "cmyk", "16 bit", "animation"],
)
@pytest.mark.parametrize("mode", scaled.MODES)
def test_a_picture_of_the_right_size_is_left_as_it_is(data, mode):
    assert np.array_equal(decode_square(data, 48, mode=mode), np.asarray(load_image(data)))


@pytest.mark.parametrize("size", [(900, 600), (600, 901), (300, 260), (2000, 201), (64, 150)])
@pytest.mark.parametrize("mode", scaled.MODES)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_geometry_is_that_of_the_backbones_transform(size, mode, kind):
    data = encode(picture(*size), kind)
    difference = gap(decode_square(data, 64, mode=mode), whole(data, 64, mode))
    assert difference.mean() < 1 and difference.max() <= 6
    if kind == "PNG":
        assert difference.max() <= 2  # no scaled decoding: only the resize's rounding


@pytest.mark.parametrize("size", [(64, 64), (500, 333)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(size, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(*size), exif=exif)
    difference = gap(decode_square(data, 64), whole(data, 64))
    assert difference.max() <= (0 if size == (64, 64) else 6)


def test_a_larger_margin_comes_nearer_to_decoding_the_whole():
    data = encode(noise(1024, 1024).resize((512, 512)))
    exact = whole(data, 60)
    far, near, all_of_it = (gap(decode_square(data, 60, margin=m), exact).mean() for m in (1, 2, 8))
    assert far > near > all_of_it
    assert all_of_it < 0.05


def test_a_line_is_cut_before_it_is_resized():
    data = encode(picture(1, 30000), "PNG")
    assert gap(decode_square(data, 32), np.asarray(load_image(data))[15000, 0]).max() <= 1


def test_a_crop_keeps_its_box():
    image = Image.new("RGB", (400, 200), "red")
    image.paste((0, 0, 255), (300, 100, 400, 200))
    data = encode(image, quality=95)
    seen = []

    def corner(width, height):
        seen.append((width, height))
        return 304.0, 104.0, 400.0, 200.0

    assert gap(decode_square(data, 24, crop=corner), (0, 0, 255)).max() <= 3
    assert seen == [(400, 200)]
    full = decode_square(data, 24, crop=lambda width, height: (0, 0, width, height))
    assert np.array_equal(full, decode_square(data, 24, mode="squash"))
    pixels = np.asarray(load_image(data))
    assert gap(fit_square(pixels, 24, corner), (0, 0, 255)).max() <= 3


def test_a_given_array_takes_the_pixels():
    for data in (encode(noise(32, 32)), encode(noise(99, 70)), encode(noise(99, 70), "PNG")):
        batch = np.zeros((3, 32, 32, 3), np.uint8)
        decode_square(data, 32, out=batch[1])
        assert np.array_equal(batch[1], decode_square(data, 32))
        assert not batch[0].any() and not batch[2].any()


def agrees(data: bytes, size: int) -> None:
    """decode_square fails where load_image fails, and gives its pixels where it does not."""
    try:
        image = load_image(data)
    except ImageError:
        with pytest.raises(ImageError):
            decode_square(data, size)
        return
    square = decode_square(data, size)
    if image.size == (size, size):
        assert np.array_equal(square, np.asarray(image))


WHOLE = [encode(noise(40, 40), **options) for options in JPEGS.values()]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("data", WHOLE, ids=JPEGS)
def test_a_cut_picture_is_refused_as_ever(data):
    for length in [*range(0, 24), *range(24, len(data), 151), len(data) - 2, len(data) - 1]:
        agrees(data[:length], 40)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=200, deadline=None)
@given(st.sampled_from(WHOLE), st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
def test_a_damaged_picture_gives_what_it_always_gave(data, at, patch):
    at %= len(data)
    agrees(data[:at] + patch + data[at + len(patch) :], 40)


def test_the_size_is_checked_before_anything_is_decoded():
    data = bytearray(encode(picture(64, 64)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (60000).to_bytes(2, "big") * 2
    with pytest.raises(ImageError, match=f"over the {MAX_PIXELS // 10**6} megapixels"):
        decode_square(bytes(data), 32)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"no picture", b"\xff\xd8\xff\xe0\0\0"])
def test_what_is_no_picture_is_an_image_error(data):
    with pytest.raises(ImageError):
        decode_square(data, 32)


@pytest.mark.parametrize(
    "wrong", [{"mode": "largest"}, {"interpolation": "area"}, {"margin": 0.5}, {"size": 0}]
)
def test_wrong_settings_are_told_in_one_sentence(wrong):
    with pytest.raises(InputError, match="wanted one of"):
        decode_square(encode(picture(64, 64)), **{"size": 32, **wrong})


def test_torch_is_loaded_only_to_resize():
    code = (
        "import sys, io; from PIL import Image; from mmfm.preprocess.scaled import decode_square\n"
        "stream = io.BytesIO(); Image.new('RGB', (32, 32)).save(stream, 'JPEG')\n"
        "decode_square(stream.getvalue(), 32); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
