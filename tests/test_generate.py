"""Drawing: a seed means one picture, whatever is drawn beside it."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmfm.decoder.sampler import picture_seed
from mmfm.errors import InputError, TextError


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model


@pytest.fixture(scope="module")
def grid_model(tiny_grid_model):
    return tiny_grid_model


@pytest.fixture(scope="module")
def images(ellipses):
    return ellipses


@pytest.mark.parametrize("space", ["pixel", "grid"])
def test_picture_i_of_a_seed_is_the_same_in_any_company(model, grid_model, space):
    m = model if space == "pixel" else grid_model
    settings = {"seed": 11, "num_steps": 2, "guidance_scale": 2.0, "output": "pt"}
    three = m.generate("tree", num_images=3, **settings)
    assert three.shape == (3, 3, 32, 32)
    assert torch.allclose(m.generate("tree", **settings)[0], three[0], atol=1e-5)
    assert not torch.allclose(three[0], three[1], atol=1e-2)
    with_mate = m.generate(["tree", "a longer text about a tree"], num_images=2, **settings)
    assert len(with_mate) == 4
    assert torch.allclose(with_mate[:2], three[:2], atol=1e-4)
    assert torch.equal(m.generate("tree", num_images=3, **settings), three)


def test_without_a_seed_every_picture_is_new(model):
    one, two = (model.generate("tree", num_steps=1, output="pt") for _ in range(2))
    assert not torch.allclose(one, two, atol=1e-2)


def test_kinds_of_output_agree(model):
    pil, array, tensor = (
        model.generate("tree", num_images=2, seed=1, num_steps=2, output=kind)
        for kind in ("pil", "np", "pt")
    )
    assert [p.size for p in pil] == [(32, 32)] * 2
    assert array.dtype == np.uint8
    assert np.array_equal(array, np.stack([np.asarray(p) for p in pil]))
    assert tensor.abs().max() <= 1
    assert np.abs(tensor.permute(0, 2, 3, 1).numpy() * 127.5 + 127.5 - array).max() <= 1


def test_rerank_keeps_the_picture_nearest_to_its_prompt(model):
    prompts, settings = ["tree", "a red circle"], {"num_steps": 2, "guidance_scale": 1.0}
    best = model.generate(prompts, num_images=2, seed=4, rerank=3, output="pt", **settings)
    assert len(best) == 4
    said = model.backbone.encode_texts(model.backbone.tokenize(prompts))
    for row in range(4):
        p, i = divmod(row, 2)
        with torch.inference_mode():
            candidates = model.decoder.sample(
                said.take([p] * 3), [picture_seed(4, i, k) for k in range(3)], **settings
            ).clamp(-1, 1)
        pictures = [Image.fromarray(c) for c in to_bytes(candidates)]
        fits = model.embed_images(pictures) @ said.pooled[p].detach().numpy()
        assert torch.allclose(best[row], candidates[fits.argmax()], atol=1e-4)


def to_bytes(images):
    return ((images.permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8).numpy()


def test_a_negative_prompt_moves_the_picture(model):
    settings = {"seed": 2, "num_steps": 2, "output": "pt"}
    plain = model.generate("tree", guidance_scale=1.0, **settings)
    itself = model.generate("tree", negative_prompt="tree", guidance_scale=3.0, **settings)
    snow = model.generate("tree", negative_prompt="snow", guidance_scale=3.0, **settings)
    assert torch.allclose(itself, plain, atol=1e-3)
    assert not torch.allclose(snow, plain, atol=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_images": 0}, {"num_images": 1.5}, {"num_steps": 0}, {"num_steps": -3},
        {"rerank": 0}, {"seed": -1}, {"seed": "7"}, {"output": "gif"}, {"negative_prompt": ""},
        {"negative_prompt": ["snow", "rain"]},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(model, settings):
    with pytest.raises(InputError):
        model.generate("tree", **{"num_steps": 1, **settings})


def test_a_long_prompt_is_cut_with_a_warning(model):
    with pytest.warns(UserWarning, match="tail"):
        model.generate("a " + "very " * 20 + "long tail", num_steps=1, seed=0)


def test_an_empty_prompt_is_refused(model):
    for prompt in ("", [], ["tree", ""]):
        with pytest.raises(TextError):
            model.generate(prompt)


def test_more_pictures_than_one_batch(model):
    made = model.generate("tree", num_images=66, num_steps=1, seed=0, output="np")
    assert made.shape == (66, 32, 32, 3)


def test_reconstruction_draws_every_picture(model, images):
    drawn = model.reconstruct(images)
    assert [p.size for p in drawn] == [(32, 32)] * 5
    again = model.reconstruct(images, batch_size=2)
    assert np.abs(np.stack(drawn).astype(int) - np.stack(again)).max() <= 1
