"""Exact search finds what comparing everything finds, in any layout of blocks."""

import numpy as np
import pytest

from mmfm.index import scan
from mmfm.index.scan import best_of_one, exact_top, row_scores


def units(count, dim=48, seed=0):
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def brute(vectors, queries, k, allowed=None):
    """Rows of the k largest float64 products, equal vectors by row."""
    scores = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    return np.argsort(-np.round(scores, 9), axis=1, kind="stable")[:, :k]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(scan, "_SCORES", 700)
    monkeypatch.setattr(scan, "_QUERIES", 7)
    monkeypatch.setattr(scan, "_GATHERED", 300)


@pytest.mark.parametrize("k", [1, 10, 200, 5000])
def test_the_best_rows_are_those_of_all_products(small_blocks, k):
    vectors, queries = units(1000), units(20, seed=1)
    rows, scores = exact_top(vectors, queries, k)
    assert rows.shape == scores.shape == (20, min(k, 1000))
    assert rows.dtype == np.int64 and scores.dtype == np.float32
    products = queries.astype(np.float64) @ vectors.T
    np.testing.assert_allclose(scores, -np.sort(-products, axis=1)[:, :k], atol=1e-6)
    np.testing.assert_allclose(scores, np.take_along_axis(products, rows, axis=1), atol=1e-6)
    assert all(len(set(row)) == len(row) for row in rows.tolist())


def test_rows_that_are_not_allowed_are_never_found(small_blocks):
    vectors, queries = units(1000), units(20, seed=1)
    allowed = np.random.default_rng(2).random(1000) < 0.3
    allowed[300:600] = False  # whole blocks
    rows, _ = exact_top(vectors, queries, 10, allowed)
    np.testing.assert_array_equal(rows, brute(vectors, queries, 10, allowed))


def test_places_without_a_row_are_marked():
    allowed = np.zeros(50, bool)
    allowed[[3, 7]] = True
    rows, scores = exact_top(units(50), units(2, seed=1), 5, allowed)
    assert [set(row) for row in rows[:, :2].tolist()] == [{3, 7}, {3, 7}]
    assert (rows[:, 2:] == -1).all() and (scores[:, 2:] == -np.inf).all()


def test_equal_vectors_have_equal_scores_and_come_in_order_of_their_rows(small_blocks):
    vectors = np.concatenate([units(300), np.tile(units(1, seed=5), (500, 1)), units(300, seed=2)])
    rows, scores = exact_top(vectors, units(1, seed=5), 400)
    np.testing.assert_array_equal(rows[0], np.arange(300, 700))
    assert len(np.unique(scores)) == 1


def test_a_score_does_not_depend_on_the_other_queries_or_rows(small_blocks):
    vectors, queries = units(500), units(9, seed=1)
    rows, scores = exact_top(vectors, queries, 5)
    for query, row, score in zip(queries, rows, scores):
        alone = exact_top(vectors, query[None], 5)
        np.testing.assert_array_equal(alone[0][0], row)
        np.testing.assert_array_equal(alone[1][0], score)
        np.testing.assert_array_equal(row_scores(vectors, query, row), score)


def test_vectors_on_disk_are_searched_as_those_in_memory(tmp_path):
    np.save(tmp_path / "vectors.npy", units(400))
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    for ours, theirs in zip(exact_top(mapped, units(3), 4), exact_top(units(400), units(3), 4)):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("count", "asked"), [(0, 2), (5, 0)])
def test_nothing_to_search_or_nothing_asked_gives_nothing(count, asked):
    rows, scores = exact_top(units(count), units(asked), 3)
    assert rows.shape == scores.shape == (asked, min(3, count))


def test_the_best_of_one_are_sorted_and_ties_go_by_row():
    rows, scores = best_of_one(np.array([9, 4, 7, 1]), np.array([0.5, 0.9, 0.5, 0.1]), 3)
    assert rows.tolist() == [4, 7, 9] and scores.tolist() == [0.9, 0.5, 0.5]
