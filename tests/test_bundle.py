"""A model on disk: every bit comes back, and what is not whole is refused in one sentence."""

import json
import shutil

import numpy as np
import open_clip
import pytest
import torch

import mmfm
from mmfm.captioner.guesses import guesses_of
from mmfm.errors import ModelError, OutputError

TEXTS = ["a red circle", "tree", "a green square on a blue table"]


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model


@pytest.fixture(scope="module")
def grid_model(tiny_grid_model):
    return tiny_grid_model


@pytest.fixture(scope="module")
def images(ellipses):
    return ellipses


@pytest.fixture(scope="module")
def bare(tiny_bundle):
    return mmfm.load(f"local-dir:{tiny_bundle}", device="cpu")


def same_words(one, two, images):
    vectors = one.embed_images(images)
    settings = {"max_tokens": 6, "num_captions": 2, "seed": 3}
    return (
        np.array_equal(vectors, two.embed_images(images))
        and np.array_equal(one.embed_texts(TEXTS), two.embed_texts(TEXTS))
        and one.caption(images, max_tokens=6) == two.caption(images, max_tokens=6)
        and one.caption(embeddings=vectors, **settings)
        == two.caption(embeddings=vectors, **settings)
    )


def same_pictures(one, two, images):
    drawn = [
        m.generate(TEXTS[:2], seed=5, num_steps=2, guidance_scale=2.0, output="np")
        for m in (one, two)
    ]
    rebuilt = [np.stack(m.reconstruct(images)) for m in (one, two)]
    return np.array_equal(*drawn) and np.array_equal(*rebuilt)


def test_a_bundle_keeps_every_output_bit_for_bit(model, images, tmp_path):
    again = mmfm.load(model.save_pretrained(tmp_path / "again"), device="cpu")
    assert again.config == model.config
    assert again.backbone_hash == model.backbone_hash
    assert same_words(model, again, images)
    assert same_pictures(model, again, images)


def test_a_bundle_in_grid_space_too(grid_model, images, tmp_path):
    again = mmfm.load(grid_model.save_pretrained(tmp_path / "again"), device="cpu")
    assert same_words(grid_model, again, images)
    assert same_pictures(grid_model, again, images)


def test_half_precision_halves_the_files_and_still_loads(model, images, tmp_path):
    full, half = tmp_path / "full", tmp_path / "half"
    model.save_pretrained(full)
    again = mmfm.load(model.save_pretrained(half, dtype=torch.float16), device="cpu")
    assert {p.dtype for part in again.parts.values() for p in part.parameters()} == {torch.float32}
    for name in ("open_clip_model.safetensors", "heads.safetensors"):
        assert (half / name).stat().st_size < 0.6 * (full / name).stat().st_size
    assert np.abs(again.embed_images(images) - model.embed_images(images)).max() < 0.01
    assert len(again.generate("tree", num_steps=1, seed=0)) == 1


def test_metrics_travel_with_the_bundle(model, tmp_path):
    path = model.save_pretrained(tmp_path / "again")
    (path / "metrics.json").write_text('{"recall": 0.5, "license": "CC0-1.0"}')
    again = mmfm.load(path, device="cpu")
    assert again.info()["recall"] == 0.5
    path = again.save_pretrained(tmp_path / "third")
    assert json.loads((path / "metrics.json").read_text())["license"] == "CC0-1.0"


def test_a_bundle_replaces_a_bundle_and_nothing_else(model, tmp_path):
    path = model.save_pretrained(tmp_path / "model")
    model.save_pretrained(path)
    assert mmfm.load(path, device="cpu").backbone_hash == model.backbone_hash
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "mine.txt").write_text("keep me")
    with pytest.raises(OutputError, match="not an mmfm bundle"):
        model.save_pretrained(notes)
    assert (notes / "mine.txt").read_text() == "keep me"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "notes"]  # nothing left over


def test_open_clip_embeds_pictures_and_texts_alike(model, tiny_bundle, images):
    towers, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tiny_bundle}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tiny_bundle}")
    towers.eval()
    with torch.inference_mode():
        seen = towers.encode_image(torch.stack([transform(i) for i in images]), normalize=True)
        said = towers.encode_text(tokenizer(TEXTS), normalize=True)
    assert np.allclose(model.embed_images(images, precision="fp32"), seen.numpy(), atol=1e-6)
    assert np.allclose(model.embed_texts(TEXTS, precision="fp32"), said.numpy(), atol=1e-6)


def test_a_backbone_alone_is_a_bundle_too(bare, images, tmp_path):
    again = mmfm.load(bare.save_pretrained(tmp_path / "bare"), device="cpu")
    assert again.captioner is None
    assert again.backbone_hash == bare.backbone_hash
    assert np.array_equal(again.embed_images(images), bare.embed_images(images))


def test_models_that_ship_are_bundles():
    from mmfm.loading import WEIGHTS

    names = mmfm.list_models()
    assert names == sorted(names)
    for name in names:
        assert (WEIGHTS / name / "config.json").is_file()


@pytest.mark.parametrize("name", ["maxi", "no/such/folder", "open_clip:No-Such/tag", ""])
def test_an_unknown_model_is_refused(name):
    with pytest.raises(ModelError) as caught:
        mmfm.load(name)
    assert "\n" not in str(caught.value)


def test_an_absent_device_is_refused(tiny_bundle):
    with pytest.raises(ModelError, match="toaster"):
        mmfm.load(tiny_bundle, device="toaster")


def forget(name):
    return lambda path: (path / name).unlink()


def cut(name):
    def damage(path):
        data = (path / name).read_bytes()
        (path / name).write_bytes(data[: len(data) // 2])

    return damage


def edit(name, change):
    def damage(path):
        values = json.loads((path / name).read_text())
        change(values)
        (path / name).write_text(json.dumps(values))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        forget("open_clip_model.safetensors"),
        forget("heads.safetensors"),
        forget("vocabulary.json"),
        cut("open_clip_model.safetensors"),
        cut("heads.safetensors"),
        cut("vocabulary.json"),
        cut("config.json"),
        edit("config.json", lambda v: v.update(colour="red")),
        edit("config.json", lambda v: v["captioner"].update(widht=3)),
        edit("config.json", lambda v: v["captioner"].update(width=64)),
        edit("config.json", lambda v: v["decoder"].update(num_pooled_tokens=5)),
        edit("config.json", lambda v: v["decoder"].update(space="latent")),
        edit("config.json", lambda v: v["backbone"]["model_cfg"].update(embed_dim=64)),
        edit("config.json", lambda v: v.pop("backbone")),
        edit("config.json", lambda v: v.update(format=99)),
        edit("config.json", lambda v: v.update(captioner=5)),
        edit("vocabulary.json", lambda v: v.pop()),
        edit("vocabulary.json", lambda v: v.__setitem__(0, 10**6)),
        lambda path: (path / "guesses.json").write_text("[[1, 2], [3, 1000000]]"),
        lambda path: (path / "guesses.json").write_text("[1, 2]"),
        lambda path: (path / "config.json").write_text("[]"),
        lambda path: (path / "config.json").write_bytes(b"\xff\xfe"),
    ],
)
def test_a_damaged_bundle_is_refused_in_one_sentence(tiny_bundle, tmp_path, damage):
    path = tmp_path / "damaged"
    shutil.copytree(tiny_bundle, path)
    damage(path)
    with pytest.raises(ModelError) as caught:
        mmfm.load(path, device="cpu")
    said = str(caught.value)
    assert "\n" not in said
    assert "damaged" in said or "vocabulary" in said  # the folder or the file is named


def test_guesses_are_kept_and_change_no_caption(tiny_bundle, images, tmp_path):
    model = mmfm.load(tiny_bundle, device="cpu")
    plain = model.caption(images, min_tokens=6, max_tokens=8)
    assert not (tiny_bundle / "guesses.json").exists()
    model.vocabulary.guesses = guesses_of(model.vocabulary, [*TEXTS, *plain] * 4)
    again = mmfm.load(model.save_pretrained(tmp_path / "quick"), device="cpu")
    kept = again.vocabulary.guesses.to_list()
    assert kept == model.vocabulary.guesses.to_list() and kept
    for image, caption in zip(images, plain, strict=True):
        assert again.caption([image], min_tokens=6, max_tokens=8) == [caption]
