import numpy as np
import pytest

from mmfm.errors import InputError
from mmfm.evaluation.retrieval import recall_at_k


def unit(vectors):
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_hand_worked_example():
    # scores, text by image: a: .9 .5 .1 | b: .8 .7 .2 | c: .3 .6 .4; right answers on the diagonal
    texts = np.array([[0.9, 0.5, 0.1], [0.8, 0.7, 0.2], [0.3, 0.6, 0.4]], np.float32)
    figures = recall_at_k(texts, np.eye(3), list("abc"), list("abc"), ks=(1, 2))
    assert figures["text_to_image_recall@1"] == pytest.approx(1 / 3)  # ranks 0 1 1
    assert figures["text_to_image_recall@2"] == 1
    assert figures["image_to_text_recall@1"] == 1  # ranks 0 0 0
    assert figures["text_to_image_recall@1_chance"] == pytest.approx(1 / 3)
    assert figures["image_to_text_recall@2_chance"] == pytest.approx(2 / 3)


def test_any_item_of_the_group_is_right_and_does_not_take_a_place():
    texts = np.array([[0.2, 0.9, 0.5], [0.2, 0.9, 0.5], [0.1, 0.2, 0.3]], np.float32)
    groups = ["cat", "cat", "dog"]
    figures = recall_at_k(texts, np.eye(3), groups, groups, ks=(1,))
    assert figures["text_to_image_recall@1"] == 1
    # chance: two matches among three for cat, one for dog
    assert figures["text_to_image_recall@1_chance"] == pytest.approx((2 / 3 + 2 / 3 + 1 / 3) / 3)


def test_galleries_of_different_sizes():
    texts = unit([[1, 0], [0, 1]])
    images = unit([[1, 0.1], [1, 0.2], [0.1, 1]])
    figures = recall_at_k(texts, images, ["a", "b"], ["a", "a", "b"], ks=(1,))
    assert figures["text_to_image_recall@1"] == figures["image_to_text_recall@1"] == 1


def test_a_collapsed_model_scores_nothing():
    vectors = unit(np.ones((50, 4)))
    groups = [str(i) for i in range(50)]
    figures = recall_at_k(vectors, vectors, groups, groups)
    assert figures["text_to_image_recall@10"] == figures["image_to_text_recall@10"] == 0


def test_perfect_and_random_vectors():
    rng = np.random.default_rng(0)
    vectors = unit(rng.normal(size=(400, 32)))
    groups = [str(i // 2) for i in range(400)]
    perfect = recall_at_k(vectors, vectors, groups, groups)
    assert perfect["text_to_image_recall@1"] == perfect["image_to_text_recall@1"] == 1
    other = unit(rng.normal(size=(400, 32)))
    random = recall_at_k(vectors, other, groups, groups)
    for name in ("text_to_image", "image_to_text"):
        for k in (1, 5, 10):
            chance = random[f"{name}_recall@{k}_chance"]
            spread = 4 * (chance * (1 - chance) / 400) ** 0.5
            assert random[f"{name}_recall@{k}"] == pytest.approx(chance, abs=spread)


def test_chance_equals_a_simulation():
    rng = np.random.default_rng(1)
    groups = ["a"] * 5 + ["b"] * 3 + ["c"] * 2
    is_hit = np.array(groups)[:, None] == np.array(groups)[None, :]
    draws = [is_hit[:, rng.permutation(10)[:3]].any(axis=1).mean() for _ in range(5000)]
    chance = recall_at_k(np.eye(10), np.eye(10), groups, groups, ks=(3,))
    assert chance["text_to_image_recall@3_chance"] == pytest.approx(np.mean(draws), abs=0.01)
    assert chance["image_to_text_recall@3_chance"] == pytest.approx(np.mean(draws), abs=0.01)


def test_wrong_groups_are_refused():
    with pytest.raises(InputError, match="one group for each vector"):
        recall_at_k(np.eye(3), np.eye(3), ["a"], list("abc"))
    with pytest.raises(InputError, match="no match"):
        recall_at_k(np.eye(3), np.eye(3), list("abd"), list("abc"))
