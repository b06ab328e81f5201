"""Pictures packed in memory are the pictures of the shards, composited exactly."""

import io

import numpy as np
import pytest
from PIL import Image

from mmfm.data.packed import PackedPictures
from mmfm.data.sample import Sample
from mmfm.errors import DataError


def sample(key, pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return Sample(key, buffer.getvalue(), (f"name {key}", f"a drawing of {key}"), {"set": key})


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (4, 8, 8, 4), dtype=np.uint8)


@pytest.fixture
def packed(pixels):
    return PackedPictures.read((sample(str(i), p) for i, p in enumerate(pixels)), 8)


def test_nothing_is_lost(packed, pixels):
    assert len(packed) == 4
    assert np.array_equal(packed.pixels, pixels)
    assert packed.captions[2] == ("name 2", "a drawing of 2")
    assert packed.meta[3] == {"set": "3"}


def test_select_takes_rows_in_their_order(packed):
    part = packed.select(np.array([3, 1]))
    assert len(part) == 2
    assert np.array_equal(part.pixels, packed.pixels[[3, 1]])
    assert [m["set"] for m in part.meta] == ["3", "1"]
    assert np.array_equal(part.on_ground(np.array([0])), packed.on_ground(np.array([3])))


def test_alpha_decides_between_picture_and_ground():
    pixels = np.zeros((3, 8, 8, 4), np.uint8)
    pixels[..., 0] = 255  # red
    pixels[:, :, :, 3] = np.array([0, 255, 51])[:, None, None]
    packed = PackedPictures.read((sample(str(i), p) for i, p in enumerate(pixels)), 8)
    flat = packed.on_ground(np.arange(3))
    assert flat.shape == (3, 3, 8, 8)
    assert flat.dtype == np.float32
    assert (flat[0] == 1).all()  # nothing but the white ground
    assert np.allclose(flat[1, :, 0, 0], [1, -1, -1])
    assert np.allclose(flat[2, :, 0, 0], [1, 0.6, 0.6])  # a fifth of red on white


def test_each_picture_may_have_its_own_ground():
    pixels = np.zeros((2, 8, 8, 4), np.uint8)
    packed = PackedPictures.read((sample(str(i), p) for i, p in enumerate(pixels)), 8)
    grounds = np.array([[1.0, 0.5, -1.0], [0.0, 0.0, 0.0]])
    assert np.allclose(packed.on_ground(np.array([0, 1]), grounds)[:, :, 3, 3], grounds)
    assert np.allclose(packed.on_ground(np.array([0]), -0.5), -0.5)


def test_pixels_agree_with_pillow(packed, pixels):
    for row in range(4):
        image = Image.fromarray(pixels[row])
        ground = Image.new("RGBA", image.size, "white")
        wanted = np.asarray(Image.alpha_composite(ground, image).convert("RGB"), np.float32)
        ours = (packed.on_ground(np.array([row]))[0].transpose(1, 2, 0) + 1) * 127.5
        assert np.abs(ours - wanted).max() <= 1


def test_pictures_without_alpha_are_opaque():
    grey = np.full((8, 8), 51, np.uint8)
    packed = PackedPictures.read([sample("g", grey)], 8)
    assert np.allclose(packed.on_ground(np.array([0])), 51 / 127.5 - 1)


def test_another_size_is_refused_by_name(pixels):
    with pytest.raises(DataError, match="sample 7 is 8x8 px, wanted 16x16"):
        PackedPictures.read([sample("7", pixels[0])], 16)


def test_no_samples_are_refused():
    with pytest.raises(DataError, match="no samples"):
        PackedPictures.read([], 8)
