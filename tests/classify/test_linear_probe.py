"""The probe is the one minimum of its cost; validation chooses the decay, a prior the start."""

import numpy as np
import pytest

from mmfm.classify import LinearHead, fit_linear_probe
from mmfm.classify.head import numbers
from mmfm.classify.linear_probe import DEFAULT_DECAY
from mmfm.errors import InputError


def test_separable_vectors_are_separated(kinds):
    vectors, names = kinds(30)
    fresh, wanted = kinds(50, seed=1)
    head = fit_linear_probe(vectors, names)
    assert head.predict(vectors) == names
    assert head.predict(fresh) == wanted
    assert np.allclose(head(fresh).sum(axis=1), 1, atol=1e-5)
    # a label for every vector at random is not learnt
    shuffled = list(np.random.default_rng(0).permutation(names))
    blind = fit_linear_probe(vectors, shuffled)
    assert np.mean(np.array(blind.predict(fresh)) == wanted) < 0.7


def test_at_the_minimum_the_slope_is_zero(kinds):
    vectors, names = kinds(20, noise=2.0)
    decay = 0.05
    head = fit_linear_probe(vectors, names, decays=[decay])
    mean = vectors.mean(axis=0)
    width = np.sqrt(np.square(vectors - mean).mean())
    right = np.eye(3)[numbers(names, head.labels)]
    error = (head(vectors) - right) / len(vectors)
    slope = error.T @ ((vectors - mean) / width) + decay * head.weight * width
    assert np.abs(slope).max() < 1e-4
    bias = head.bias + head.weight @ mean
    assert np.abs(error.sum(axis=0) + decay * bias).max() < 1e-4


def test_order_and_repetition_of_the_examples_do_not_matter(kinds):
    vectors, names = kinds(15, noise=1.0)
    head = fit_linear_probe(vectors, names, decays=[0.1])
    order = np.random.default_rng(0).permutation(len(names))
    other = fit_linear_probe(vectors[order], [names[i] for i in order], decays=[0.1])
    twice = fit_linear_probe(np.tile(vectors, (2, 1)), names * 2, decays=[0.1])
    for same in (other, twice):
        assert np.allclose(same.weight, head.weight, atol=1e-3)
        assert np.allclose(same.bias, head.bias, atol=1e-3)


def test_names_only_permute_columns(kinds):
    vectors, names = kinds(10)
    renamed = {"boat": "zebra", "moon": "moon", "tree": "ant"}
    head = fit_linear_probe(vectors, names, decays=[0.1])
    other = fit_linear_probe(vectors, [renamed[name] for name in names], decays=[0.1])
    assert other.labels == ("ant", "moon", "zebra")
    columns = [other.labels.index(renamed[label]) for label in head.labels]
    assert np.allclose(other(vectors)[:, columns], head(vectors), atol=1e-4)


def test_validation_chooses_a_decay_that_generalises(kinds):
    vectors, names = kinds(20, noise=3.0)
    fresh, wanted = kinds(300, seed=5, noise=3.0)
    head = fit_linear_probe(vectors, names)
    scores = {float(k): v for k, v in head.notes["validation"].items()}
    assert head.notes["decay"] == pytest.approx(min(scores, key=scores.get), rel=0.01)

    def cost(one):
        rows = np.arange(len(wanted))
        return -np.log(one(fresh)[rows, numbers(wanted, one.labels)]).mean()

    careless = fit_linear_probe(vectors, names, decays=[1e-6])
    assert cost(head) < 0.7 * cost(careless)


def test_a_strong_pull_gives_the_prior_and_a_weak_one_the_probe(kinds):
    vectors, names = kinds(20, noise=1.0)
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 16)).astype(np.float32)
    labels = ("boat", "moon", "sun", "tree")
    prior = LinearHead(labels, weight, np.zeros(4, np.float32))
    held = fit_linear_probe(vectors, names, prior=prior, decays=[1e6])
    assert held.labels == labels  # the sun has no example and stays
    assert np.allclose(held(vectors), prior(vectors), atol=1e-3)
    free = fit_linear_probe(vectors, names, prior=prior, decays=[1e-4])
    assert free.predict(vectors) == names


def test_a_good_prior_helps_when_examples_are_few(kinds):
    many, names = kinds(200, noise=2.0)
    prior = fit_linear_probe(many, names)
    few, some = kinds(2, seed=3, noise=2.0)
    fresh, wanted = kinds(200, seed=4, noise=2.0)

    def accuracy(head):
        return np.mean(np.array(head.predict(fresh)) == wanted)

    alone = accuracy(fit_linear_probe(few, some))
    helped = accuracy(fit_linear_probe(few, some, prior=prior))
    assert helped > alone + 0.05


def test_one_example_each_is_enough_and_none_is_held_out(kinds):
    vectors, names = kinds(1)
    head = fit_linear_probe(vectors, names)
    assert head.notes["decay"] == DEFAULT_DECAY
    assert head.predict(vectors) == names


def test_wrong_calls_are_refused(kinds):
    vectors, names = kinds(3)
    with pytest.raises(InputError, match="wanted as many"):
        fit_linear_probe(vectors, names[:-1])
    with pytest.raises(InputError, match="two labels"):
        fit_linear_probe(vectors, ["boat"] * len(names))
    with pytest.raises(InputError, match="NaN"):
        fit_linear_probe(vectors * np.nan, names)
    with pytest.raises(InputError, match="above 0"):
        fit_linear_probe(vectors, names, decays=[0.0])
    prior = LinearHead(("boat", "moon"), np.zeros((2, 16), np.float32), np.zeros(2, np.float32))
    with pytest.raises(InputError, match="'tree'"):
        fit_linear_probe(vectors, names, prior=prior)
    narrow = LinearHead(("a", "b"), np.zeros((2, 3), np.float32), np.zeros(2, np.float32))
    with pytest.raises(InputError, match="reads 3"):
        fit_linear_probe(vectors, names, prior=narrow)
