"""Neighbours vote: one repeats what it was told, all of them give the shares of labels."""

import numpy as np
import pytest

from mmfm.classify import KNN
from mmfm.classify.knn import IndexKNN, votes
from mmfm.errors import InputError


def test_one_neighbour_gives_the_training_labels_back(kinds):
    vectors, names = kinds(20, noise=2.0)
    assert KNN(vectors, names, k=1).predict(vectors) == names
    rng = np.random.default_rng(0)
    nonsense = list(rng.permutation(names))
    assert KNN(vectors, nonsense, k=1).predict(vectors) == nonsense


def test_fresh_vectors_of_the_same_kinds_are_named(kinds):
    vectors, names = kinds(20)
    fresh, wanted = kinds(20, seed=1)
    knn = KNN(vectors, names)
    assert knn.predict(fresh) == wanted
    assert np.allclose(knn(fresh).sum(axis=1), 1, atol=1e-5)


def test_a_very_warm_vote_of_all_is_the_share_of_each_label(kinds):
    vectors, names = kinds(10)
    vectors, names = vectors[:22], names[:22]
    knn = KNN(vectors, names, k=100, temperature=1e6)
    shares = [names.count(label) / len(names) for label in knn.labels]
    assert np.allclose(knn(vectors), shares, atol=1e-4)


def test_a_vote_is_the_softmax_of_cosines_written_as_a_loop(kinds):
    vectors, names = kinds(8, noise=1.0)
    queries, _ = kinds(3, seed=2, noise=1.0)
    knn = KNN(vectors, names, k=5, temperature=0.1)
    for query, row in zip(queries, knn(queries)):
        cosines = vectors @ query
        nearest = np.argsort(-cosines)[:5]
        weights = np.exp(cosines[nearest] / 0.1)
        for label, share in zip(knn.labels, row):
            mine = sum(w for w, place in zip(weights, nearest) if names[place] == label)
            assert share == pytest.approx(mine / weights.sum(), abs=1e-5)


def test_neighbours_without_a_label_have_no_vote():
    targets = np.array([[0, -1, 1], [-1, -1, -1]])
    scores = np.array([[0.9, 0.9, 0.9], [0.5, 0.4, -np.inf]], np.float32)
    assert np.allclose(votes(targets, scores, 0.1, 2), [[0.5, 0.5], [0.5, 0.5]])


def test_an_index_votes_as_arrays_do(kinds, tmp_path):
    flat = pytest.importorskip("mmfm.index.flat")
    vectors, names = kinds(15, noise=1.0)
    queries, _ = kinds(5, seed=2, noise=1.0)
    index = flat.FlatIndex.create(tmp_path / "index", vectors.shape[1])
    index.add([f"{i:03d}" for i in range(len(names))], vectors, [{"label": n} for n in names])
    by_index, by_array = IndexKNN(index, k=7), KNN(vectors, names, k=7)
    assert by_index.labels == by_array.labels
    assert np.allclose(by_index(queries), by_array(queries), atol=1e-5)
    assert by_index.predict(queries) == by_array.predict(queries)
    two = IndexKNN(index, labels=["boat", "moon"], k=7)(queries)
    assert two.shape == (15, 2)
    with pytest.raises(InputError, match="'colour'"):
        IndexKNN(index, "colour")


def test_wrong_calls_are_refused(kinds):
    vectors, names = kinds(2)
    with pytest.raises(InputError, match="wanted as many"):
        KNN(vectors, names[:-1])
    for wrong in ({"k": 0}, {"temperature": 0.0}):
        with pytest.raises(InputError, match="wanted k >= 1"):
            KNN(vectors, names, **wrong)
    with pytest.raises(InputError, match=r"\(N, 16\)"):
        KNN(vectors, names)(np.zeros((1, 3)))
