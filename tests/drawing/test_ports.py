"""Every way to a picture, in both spaces: what must be equal is, and what is asked is heeded."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mmfm.config import DecoderConfig
from mmfm.errors import ImageError, InputError, TextError

FAST = {"seed": 5, "num_steps": 2, "guidance_scale": 2.0, "output": "pt", "precision": "fp32"}


@pytest.fixture(scope="module", params=["pixel", "grid"])
def model(request, tiny_model, tiny_grid_model):
    return tiny_model if request.param == "pixel" else tiny_grid_model


@pytest.fixture(scope="module")
def pixel_model(tiny_model):
    return tiny_model


@pytest.fixture(scope="module")
def red(ellipses):
    return ellipses[0]


@pytest.fixture(scope="module")
def blue(ellipses):
    return ellipses[2]


def near(a, b):
    return torch.allclose(a, b, atol=2e-3)


def test_a_variation_is_drawn_from_the_vector_alone(model, red, blue):
    varied = model.vary(red, num_images=2, **FAST)
    vectors = model.embed_images([red], precision="fp32")
    assert near(model.decode_embeddings(vectors, num_images=2, **FAST), varied)
    assert near(model.generate(image=red, num_images=2, **FAST), varied)
    assert not near(model.vary(blue, num_images=2, **FAST), varied)


def test_text_and_picture_are_both_read(model, red, blue):
    both = model.generate("a tree", image=red, image_guidance_scale=1.5, **FAST)
    assert not near(model.generate("a tree", image=blue, image_guidance_scale=1.5, **FAST), both)
    assert not near(model.generate("a house", image=red, image_guidance_scale=1.5, **FAST), both)
    # equal scales leave no step between: the vector alone then counts for nothing
    level = {**FAST, "guidance_scale": 1.0, "image_guidance_scale": 1.0}
    plain = model.generate("a tree", image=red, **level)
    assert near(model.generate("a tree", image=red, negative_prompt="snow", **level), plain)


def test_guidance_of_one_is_no_guidance(model):
    one = {**FAST, "guidance_scale": 1.0}
    plain = model.generate("a tree", **one)
    assert torch.equal(model.generate("a tree", negative_prompt="snow", **one), plain)
    never = {**FAST, "guidance_interval": (1.0, 1.0)}  # no evaluation is at the picture itself
    assert near(model.generate("a tree", **never), plain)
    assert not near(model.generate("a tree", **FAST), plain)


def test_a_whole_number_is_a_scale_like_any_other(model):
    whole, real = (model.generate("a tree", **{**FAST, "guidance_scale": g}) for g in (2, 2.0))
    assert torch.equal(whole, real)


def test_nothing_asked_for_still_draws(model):
    made = model.generate(num_images=3, **FAST)
    assert made.shape == (3, 3, 32, 32)
    zero = {**FAST, "guidance_scale": 0.0}  # the prediction that guidance moves away from
    assert near(model.generate("a tree", num_images=3, **zero), made)


def test_the_ends_of_a_way_are_their_own_pictures(model, red, blue):
    vector = model.embed_images([blue], precision="fp32")[0]
    own = {
        "text": ("a tree", model.generate("a tree", **FAST)),
        "picture": (red, model.vary(red, **FAST)),
        "vector": (vector, model.decode_embeddings(vector, **FAST)),
    }
    for first, last in (("text", "picture"), ("picture", "vector"), ("vector", "text")):
        a, b = own[first], own[last]
        way = model.interpolate(a[0], b[0], 3, **FAST)
        assert near(way[[0]], a[1]) and near(way[[2]], b[1])
        assert not near(way[[1]], a[1]) and not near(way[[1]], b[1])


def test_an_edit_of_nothing_is_the_picture_again(model, red):
    settings = {**FAST, "strength": 1.0}
    edited = model.edit(red, "a tree", "a house", amount=0.0, **settings)
    assert near(edited, model.vary(red, **FAST))
    assert not near(model.edit(red, "a tree", "a house", amount=1.0, **settings), edited)
    kept = model.edit(red, "a tree", "a house", **{**FAST, "strength": 0.0})
    assert near(kept, model.generate("anything", image=red, **FAST, strength=0.0))


def test_the_limits_of_strength(model, red):
    forgotten = model.generate("a tree", image=red, strength=1.0, **FAST)
    assert torch.equal(forgotten, model.generate("a tree", **FAST))
    left = model.generate("a tree", image=red, strength=0.0, **{**FAST, "output": "pil"})[0]
    if model.config.decoder.space == "grid":
        wanted = model.reconstruct([red])[0]
    else:
        wanted = Image.fromarray(model.preprocess.square(red))
    assert np.abs(np.asarray(left).astype(int) - np.asarray(wanted)).max() <= 1


@pytest.mark.parametrize("sampler", ["euler", "heun", "unipc"])
def test_what_a_mask_keeps_is_kept_bit_for_bit(model, red, sampler):
    mask = np.zeros((red.height, red.width), bool)
    mask[:20, :17] = True
    settings = {**FAST, "output": "np", "num_images": 2, "sampler": sampler, "num_steps": 3}
    made = model.generate("a tree", image=red, mask=mask, **settings)
    square = model.preprocess.square(red)
    drawn = model.preprocess.square(Image.fromarray(mask).convert("RGB"))[..., 0] > 127
    for picture in made:
        assert np.array_equal(picture[~drawn], square[~drawn])
        assert not np.array_equal(picture[drawn], square[drawn])
    everything = model.generate("a tree", image=red, mask=np.ones_like(mask), **settings)
    fresh = model.generate("a tree", **settings)
    assert np.abs(everything.astype(int) - fresh).max() <= 1


def test_around_a_picture(model, red):
    made = model.outpaint(red, "a tree", margin=0.25, **{**FAST, "output": "np"})[0]
    assert made.shape == (32, 32, 3)
    inside, outside = made[8:24, 12:20], made[:6]
    assert (inside[8, 4] == (255, 0, 0)).all()  # the middle of the ellipse
    other = model.outpaint(red, "a house", margin=0.25, **{**FAST, "output": "np"})[0]
    assert np.array_equal(other[8:24, 12:20], inside)
    assert not np.array_equal(other[:6], outside)


def test_other_sizes(model, red):
    assert model.generate("a tree", height=32, width=64, **FAST).shape == (1, 3, 32, 64)
    asked = {"image": red, "strength": 0.5, "height": 32, "width": 64}
    if model.config.decoder.space == "grid":
        with pytest.raises(InputError, match="leave height and width out"):
            model.generate("a tree", **asked, **FAST)
    else:
        assert model.generate("a tree", **asked, **FAST).shape == (1, 3, 32, 64)
    with pytest.raises(InputError, match="multiples of"):
        model.generate("a tree", width=33, **FAST)


def test_noise_on_a_vector_is_the_pictures_own(model, red):
    noisy = {**FAST, "noise_level": 0.5}
    two = model.vary(red, num_images=2, **noisy)
    assert near(model.vary(red, **noisy), two[:1])
    assert not near(model.vary(red, num_images=2, **FAST), two)


def test_previews_come_with_every_evaluation(model):
    told = []
    model.generate("a tree", num_images=2, **FAST,
                   callback=lambda p: told.append((p.done, p.total, p.preview())))  # fmt: skip
    assert [(done, total) for done, total, _ in told] == [(1, 2), (2, 2)]
    first, last = told[0][2], told[1][2]
    assert [picture.size for picture in last] == [(32, 32)] * 2
    made = model.generate("a tree", num_images=2, **{**FAST, "output": "pil"})
    difference = np.asarray(last[0]).astype(int) - np.asarray(made[0])
    assert np.abs(difference).max() <= 1  # the last prediction is the picture
    assert not np.array_equal(np.asarray(first[0]), np.asarray(last[0]))


def test_a_saved_model_draws_the_same(pixel_model, red, tmp_path):
    import mmfm

    again = mmfm.load(pixel_model.save_pretrained(tmp_path / "again"), device="cpu")
    asked = {"image": red, "image_guidance_scale": 1.5, **FAST}
    assert torch.equal(again.generate("a tree", **asked), pixel_model.generate("a tree", **asked))


@pytest.mark.skipif("few_steps" not in DecoderConfig.__dataclass_fields__, reason="no such mode")
def test_a_fresh_few_step_mode_is_the_flow_in_so_many_steps_without_guidance():
    from mmfm.model import MMFM
    from mmfm.presets import preset

    config = preset("tiny")
    config = replace(config, decoder=replace(config.decoder, few_steps=2))
    model = MMFM.from_config(config, seed=1, texts=["a tree"], device="cpu")
    with torch.no_grad():
        for parameter in model.decoder.network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    few = model.generate("a tree", seed=5, sampler="few", output="pt", precision="fp32")
    assert near(few, model.generate("a tree", **{**FAST, "guidance_scale": 1.0}))
    with pytest.raises(InputError, match="its own"):
        model.generate("a tree", seed=5, sampler="few", num_steps=9)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m, p: m.generate("a tree", strength=0.5, **FAST), InputError, "give image="),
        (lambda m, p: m.generate("a tree", mask=p, **FAST), InputError, "give image="),
        (lambda m, p: m.generate("a tree", image=p, mask=p.resize((9, 9)), **FAST), ImageError,
         "40 x 48"),
        (lambda m, p: m.generate("a tree", steps=3, **FAST), InputError, "num_steps"),
        (lambda m, p: m.generate("a tree", sampler="few", seed=0), InputError, "no few-step mode"),
        (lambda m, p: m.generate("a tree", sampler="ddim", **FAST), InputError, "unipc"),
        (lambda m, p: m.generate("a tree", guidance_interval=(0.5, 0.2), **FAST), InputError,
         "rising"),
        (lambda m, p: m.generate("a tree", image=p, strength=1.5, **FAST), InputError, "0 to 1"),
        (lambda m, p: m.generate(rerank=2, **FAST), InputError, "give one"),
        (lambda m, p: m.decode_embeddings(np.zeros((1, 32)), **FAST), InputError, "zero"),
        (lambda m, p: m.decode_embeddings(np.ones((1, 7)), **FAST), InputError, "(N, 32)"),
        (lambda m, p: m.interpolate("a tree", p, 1, **FAST), InputError, "both ends"),
        (lambda m, p: m.edit(p, "a tree", "a tree", **FAST), TextError, "mean the same"),
        (lambda m, p: m.edit(p, "a tree", "a house", amount=2, **FAST), InputError, "amount"),
        (lambda m, p: m.outpaint(p, margin=0.5, **FAST), InputError, "margin"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_told(pixel_model, red, call, error, words):
    with pytest.raises(error) as told:
        call(pixel_model, red)
    assert words in str(told.value)
