"""The public object: what it says does not depend on batches, sources or a trip to the disk."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest

import mmfm
from mmfm.errors import ImageError, InputError, ModelError, TextError
from mmfm.presets import preset

TEXTS = ["a red circle", "tree", "a green square on a blue table"]


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model


@pytest.fixture(scope="module")
def images(ellipses):
    return ellipses


@pytest.fixture(scope="module")
def bare(tiny_bundle):
    return mmfm.load(f"local-dir:{tiny_bundle}", device="cpu")


def test_info_is_plain_json(model, bare):
    said = json.loads(json.dumps(model.info()))
    assert said["skills"] == ["search", "caption", "generate"]
    assert (said["image_size"], said["embed_dim"], said["space"]) == (32, 32, "pixel")
    parts = {k: v for k, v in said["parameters"].items() if k != "total"}
    assert sum(parts.values()) == said["parameters"]["total"]
    assert set(parts) == {"backbone", "captioner", "pixel_decoder", "decoder"}
    assert bare.info()["skills"] == ["search"]
    assert bare.info()["space"] is None


def test_equal_seeds_give_equal_models():
    one, two, other = (
        mmfm.MMFM.from_config(preset("tiny"), seed=seed, device="cpu") for seed in (0, 0, 1)
    )
    assert one.backbone_hash == two.backbone_hash != other.backbone_hash


def test_embeddings_are_unit_float32_and_blind_to_the_batch(model, images):
    vectors = model.embed_images(images)
    assert vectors.shape == (5, 32)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for size in (1, 2, 64):
        assert np.allclose(model.embed_images(images, batch_size=size), vectors, atol=1e-6)
    said = model.embed_texts(TEXTS)
    assert np.allclose(np.linalg.norm(said, axis=1), 1, atol=1e-5)
    for size in (1, 2):
        assert np.allclose(model.embed_texts(TEXTS, batch_size=size), said, atol=1e-6)
    assert np.allclose(model.embed_texts("tree")[0], said[1], atol=1e-6)


def test_a_picture_is_the_same_from_any_source(model, images, tmp_path):
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    first = tmp_path / "0.png"
    wanted = model.embed_images(images)
    sources = (images[0], first, str(first), first.read_bytes(), np.asarray(images[0]))
    for source in (*sources, io.BytesIO(first.read_bytes())):
        assert np.allclose(model.embed_images(source), wanted[:1], atol=1e-6)
    assert np.allclose(model.embed_images(tmp_path), wanted, atol=1e-6)
    assert np.allclose(model.embed_images([images[0], tmp_path / "1.png"]), wanted[:2], atol=1e-6)
    assert np.array_equal(model.encode(images), wanted)
    assert np.array_equal(model.encode(TEXTS), model.embed_texts(TEXTS))


def test_a_long_text_is_cut_with_a_warning_or_refused(model):
    text = "a long description of a tree with many green leaves, some red flowers, one small bird"
    with pytest.warns(UserWarning, match="one small bird"):
        cut = model.embed_texts(text)
    assert cut.shape == (1, 32)
    with pytest.raises(TextError, match="one small bird"):
        model.embed_texts(text, truncate="error")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda m: m.embed_texts([]), TextError),
        (lambda m: m.embed_texts(["tree", 3]), TextError),
        (lambda m: m.embed_texts(["tree", "half \ud83d"]), TextError),
        (lambda m: m.classify(np.zeros((8, 8, 3), np.uint8), ["tree", " "]), TextError),
        (lambda m: m.embed_texts("tree", truncate="maybe"), TextError),
        (lambda m: m.embed_texts("tree", precision="fp8"), InputError),
        (lambda m: m.embed_images([]), ImageError),
        (lambda m: m.embed_images("missing.png"), ImageError),
        (lambda m: m.embed_images(np.zeros((8, 8, 3), np.uint8), batch_size=0), InputError),
    ],
)
def test_what_cannot_be_embedded_is_refused(model, call, error):
    with pytest.raises(error):
        call(model)


def test_classes_share_one_probability(model, images):
    chances = model.classify(images, ["circle", "square", "tree"])
    assert chances.shape == (5, 3)
    assert np.allclose(chances.sum(axis=1), 1, atol=1e-5)
    # one template of the bare label is the label
    same = model.classify(images, ["circle", "square", "tree"], ["{}"])
    assert np.allclose(same, chances, atol=1e-6)
    several = model.classify(images, ["circle", "tree"], ["a {}", "a drawing of a {}"])
    assert np.allclose(several.sum(axis=1), 1, atol=1e-5)
    with pytest.raises(TextError, match="where the label goes"):
        model.classify(images, ["circle"], ["a drawing"])


def test_classes_of_a_sigmoid_backbone_stand_alone(images):
    config = preset("tiny")
    cfg = {**config.backbone.model_cfg, "init_logit_bias": -10}
    backbone = replace(config.backbone, model_cfg=cfg, loss="sigmoid")
    model = mmfm.MMFM.from_config(replace(config, backbone=backbone), device="cpu")
    labels = ["circle", "square"]
    cosines = model.embed_images(images) @ model.embed_texts(labels).T
    wanted = 1 / (1 + np.exp(10 - cosines * model.backbone.logit_scale.item()))
    assert np.allclose(model.classify(images, labels), wanted, atol=1e-5)


def test_captions_come_from_pictures_or_from_vectors(model, images):
    captions = model.caption(images, max_tokens=5)
    assert len(captions) == 5
    assert model.caption(images, max_tokens=5, batch_size=2) == captions
    assert model.caption(images[2], max_tokens=5) == captions[2:3]
    vectors = model.embed_images(images)
    from_vectors = model.caption(embeddings=vectors, max_tokens=5)
    assert len(from_vectors) == 5
    assert model.caption(embeddings=vectors[0], max_tokens=5) == from_vectors[:1]
    assert model.caption(embeddings=7 * vectors, max_tokens=5) == from_vectors  # length is nothing


def test_several_captions_begin_with_the_prompt(model, images):
    captions = model.caption(images[:2], num_captions=3, seed=0, prompt="a drawing of")
    assert [len(few) for few in captions] == [3, 3]
    assert all(text.startswith("a drawing of") for few in captions for text in few)
    again = model.caption(images[:2], num_captions=3, seed=0, prompt="a drawing of")
    assert again == captions


def test_captions_take_one_of_two_sources(model, images):
    with pytest.raises(InputError, match="one of the two"):
        model.caption()
    with pytest.raises(InputError, match="one of the two"):
        model.caption(images, embeddings=model.embed_images(images))
    for wrong in (np.zeros((2, 7)), np.zeros((2, 3, 32)), np.zeros((0, 32))):
        with pytest.raises(InputError, match=r"wanted \(N, 32\)"):
            model.caption(embeddings=wrong)


def test_scores_go_pair_by_pair(model, images):
    texts = ["a red circle", "a tree", "a red circle"]
    scores = model.caption_score(images[:3], texts)
    assert scores.shape == (3,)
    assert (scores < 0).all()
    alone = [model.caption_score(i, t)[0] for i, t in zip(images, texts)]
    assert np.allclose(scores, alone, atol=1e-5)
    assert np.allclose(model.caption_score(images[:3], texts, batch_size=2), scores, atol=1e-5)
    with pytest.raises(InputError, match="3 pictures and 2 texts"):
        model.caption_score(images[:3], texts[:2])


def test_a_backbone_alone_says_which_head_is_missing(bare, images):
    assert bare.embed_images(images).shape == (5, 32)
    assert bare.classify(images, ["circle", "tree"]).shape == (5, 2)
    for call, head in (
        (lambda: bare.caption(images), "captioner"),
        (lambda: bare.caption_score(images[0], "tree"), "captioner"),
        (lambda: bare.generate("tree"), "decoder"),
        (lambda: bare.reconstruct(images), "pixel_decoder"),
    ):
        with pytest.raises(ModelError, match=f"has no {head}"):
            call()
