"""`Preprocess` equals open_clip's evaluation transform; pixels go there and back."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mmfm.errors import ImageError, ModelError
from mmfm.preprocess.images import to_pil, to_pixels
from mmfm.preprocess.transform import Preprocess

SIZES = [(77, 133), (133, 77), (48, 48), (10, 10), (300, 41), (1000, 30), (30, 999), (49, 48)]


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_equals_open_clip(resize_mode, interpolation):
    from open_clip.transform import PreprocessCfg, image_transform_v2

    ours = Preprocess(image_size=48, resize_mode=resize_mode, interpolation=interpolation, fill=100)
    theirs = image_transform_v2(PreprocessCfg(**ours.to_open_clip()), is_train=False)
    for size in SIZES:
        image = picture(*size)
        got, wanted = ours(image), theirs(image).numpy()
        assert got.dtype == np.float32 and got.shape == (3, 48, 48)
        np.testing.assert_allclose(got, wanted, atol=1e-5, err_msg=str(size))


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", [(1, 1), (1, 30_000), (30_000, 1), (1, 5_000_000), (5_000_000, 1)])
def test_extreme_shapes_keep_their_colour(resize_mode, size):
    out = Preprocess(
        image_size=64, resize_mode=resize_mode, mean=(0, 0, 0), std=(1, 1, 1), fill=51
    )(Image.new("RGB", size, (51, 51, 51)))
    np.testing.assert_allclose(out, 0.2, atol=1e-6)


def test_the_centre_made_alone_is_the_centre_of_the_whole(monkeypatch):
    image = Image.fromarray(
        np.repeat(np.arange(600, dtype=np.uint32)[None] % 256, 20, 0).astype("u1")
    )
    image = image.convert("RGB")
    whole = Preprocess(image_size=32)(image)
    monkeypatch.setattr("mmfm.preprocess.transform._MAX_RESIZED", 1)
    np.testing.assert_allclose(Preprocess(image_size=32)(image), whole, atol=0.05)


def test_open_clip_dict_there_and_back():
    from open_clip.transform import PreprocessCfg

    ours = Preprocess(image_size=96, mean=(0.1, 0.2, 0.3), resize_mode="squash")
    assert Preprocess.from_open_clip(json.loads(json.dumps(ours.to_open_clip()))) == ours
    assert Preprocess.from_open_clip(PreprocessCfg().__dict__) == Preprocess()
    assert Preprocess.from_open_clip({}) == Preprocess()
    assert Preprocess.from_open_clip({"size": (64, 64), "mean": 0.5}).mean == (0.5, 0.5, 0.5)
    assert Preprocess.from_open_clip({"interpolation": "random"}).interpolation == "bicubic"


@pytest.mark.parametrize(
    "config",
    [{"size": (64, 32)}, {"sise": 64}, {"mode": "L"}, {"resize_mode": "crop"}, {"std": (0, 1, 1)}],
)
def test_open_clip_dicts_that_are_refused(config):
    with pytest.raises(ModelError):
        Preprocess.from_open_clip(config)


def test_hash_follows_every_field():
    variants = [
        Preprocess(),
        Preprocess(image_size=64),
        Preprocess(mean=(0.5, 0.5, 0.5)),
        Preprocess(std=(0.5, 0.5, 0.5)),
        Preprocess(interpolation="bilinear"),
        Preprocess(resize_mode="squash"),
        Preprocess(fill=1),
    ]
    assert len({one.hash for one in variants}) == len(variants)
    assert Preprocess(mean=[0.5, 0.5, 0.5]).hash == Preprocess(mean=(0.5, 0.5, 0.5)).hash
    assert len(Preprocess().hash) == 64


def test_pixels_and_pictures_are_inverse():
    image = picture(40, 40)
    pixels = to_pixels(image, 40)
    assert pixels.shape == (3, 40, 40) and pixels.min() >= -1 and pixels.max() <= 1
    for batch in (pixels[None], torch.from_numpy(pixels)[None].requires_grad_()):
        (back,) = to_pil(batch)
        np.testing.assert_array_equal(np.asarray(back), np.asarray(image))


def test_to_pil_clips_and_takes_bfloat16():
    images = torch.tensor([-9.0, 0.0, 9.0], dtype=torch.bfloat16).view(1, 3, 1, 1)
    assert to_pil(images)[0].getpixel((0, 0)) in ((0, 127, 255), (0, 128, 255))


@pytest.mark.parametrize(
    "bad", [np.zeros((3, 4, 4)), np.zeros((1, 4, 4, 3)), np.full((1, 3, 2, 2), np.nan)]
)
def test_to_pil_refuses(bad):
    with pytest.raises(ImageError):
        to_pil(bad)
