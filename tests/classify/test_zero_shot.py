"""Heads made of words, by the tiny model: equal to `classify`, whatever the order."""

import numpy as np
import pytest

from mmfm.classify import KNN, fit_linear_probe, zero_shot_head
from mmfm.errors import InputError, TextError

LABELS = ["circle", "square", "tree", "house"]


def test_the_head_on_vectors_is_classify_on_pictures(tiny_model, ellipses):
    head = tiny_model.zero_shot_head(LABELS, "drawing")
    wanted = tiny_model.classify(ellipses, LABELS, "drawing")
    vectors = tiny_model.embed_images(ellipses)
    assert np.allclose(head(vectors), wanted, atol=1e-6)
    assert np.array_equal(tiny_model.classify(ellipses, head), head(vectors))
    assert head.labels == tuple(LABELS)


def test_permuting_the_labels_permutes_the_columns(tiny_model, ellipses):
    chances = tiny_model.classify(ellipses, LABELS, "simple")
    order = [2, 0, 3, 1]
    other = tiny_model.classify(ellipses, [LABELS[i] for i in order], "simple")
    assert np.allclose(other, chances[:, order], atol=1e-6)


def test_several_words_are_the_mean_of_their_vectors(tiny_model):
    head = tiny_model.zero_shot_head(
        {"round": ["circle", "ball"], "tree": ["tree"]}, ["{}", "a {}"]
    )
    vectors = tiny_model.embed_texts(["circle", "a circle", "ball", "a ball"])
    mean = vectors.mean(axis=0)
    scale = tiny_model.backbone.logit_scale.item()
    assert np.allclose(head.weight[0], scale * mean / np.linalg.norm(mean), atol=1e-4)
    assert head.labels == ("round", "tree")
    same = tiny_model.zero_shot_head({"circle": ["circle"], "tree": ["tree"]})
    assert np.allclose(same.weight, tiny_model.zero_shot_head(["circle", "tree"]).weight)


def test_a_word_given_twice_over_weighs_nothing_more(tiny_model):
    once = tiny_model.zero_shot_head({"a": ["circle"], "b": ["tree"]})
    twice = tiny_model.zero_shot_head({"a": ["circle", "circle"], "b": ["tree"]})
    assert np.allclose(once.weight, twice.weight, atol=1e-5)


def test_many_sentences_are_embedded_in_parts():
    asked = []

    def embed(texts):
        asked.append(len(texts))
        rng = np.random.default_rng(0)
        table = {text: rng.normal(size=4) for text in sorted(set(texts))}
        return np.stack([table[text] for text in texts]).astype(np.float32)

    head = zero_shot_head(embed, [f"label {i}" for i in range(200)], "imagenet", scale=1.0)
    assert sum(asked) == 200 * 80
    assert max(asked) <= 4096 < sum(asked)
    assert np.allclose(np.linalg.norm(head.weight, axis=1), 1, atol=1e-5)


def test_a_sigmoid_head_has_the_bias(tiny_model):
    def embed(texts):
        return tiny_model.embed_texts(texts)

    head = zero_shot_head(embed, LABELS, scale=10.0, bias=-5.0, loss="sigmoid")
    vectors = tiny_model.embed_texts(["circle"])
    cosines = vectors @ tiny_model.embed_texts(LABELS).T
    assert np.allclose(head(vectors), 1 / (1 + np.exp(5 - 10 * cosines)), atol=1e-5)


def test_probes_and_neighbours_classify_pictures_too(tiny_model, ellipses):
    vectors = tiny_model.embed_images(ellipses)
    names = ["warm", "cold", "cold", "warm", "cold"]
    space = tiny_model.backbone_hash
    probe = fit_linear_probe(vectors, names, decays=[1e-4], space=space)
    knn = KNN(vectors, names, k=1, space=space)
    for one in (probe, knn):
        chances = tiny_model.classify(ellipses, one)
        assert [one.labels[best] for best in chances.argmax(axis=1)] == names


def test_a_classifier_of_another_model_is_refused(tiny_model, ellipses):
    vectors = tiny_model.embed_images(ellipses[:2])
    strange = KNN(vectors, ["a", "b"], space="another")
    with pytest.raises(InputError, match="not made with"):
        tiny_model.classify(ellipses, strange)
    with pytest.raises(InputError, match="made already"):
        tiny_model.classify(ellipses, KNN(vectors, ["a", "b"]), "photo")


@pytest.mark.parametrize("labels", [[], ["a", " "], ["a", "a"], {"a": []}, {"a": [""]}, {}])
def test_wrong_labels_are_refused(tiny_model, labels):
    with pytest.raises(TextError):
        tiny_model.zero_shot_head(labels)
