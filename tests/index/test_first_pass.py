"""The first pass finds nearly all of what an exact search finds, with the same scores."""

import numpy as np
import pytest

from mmfm.index import calibration, first_pass
from mmfm.index.coder import Coder
from mmfm.index.first_pass import MIN_ROWS, FirstPass
from mmfm.index.scan import exact_top

ROWS, DIM = 24_000, 160


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def like_a_model(count, seed, gap=0.0):
    """Vectors with a common part and a spectrum that falls, around 400 subjects."""
    same, chance = np.random.default_rng(0), np.random.default_rng(seed)
    fall = (np.arange(DIM) + 4.0) ** -0.8
    subjects, away = same.standard_normal((400, DIM)) * fall, same.standard_normal(DIM)
    rows = subjects[chance.integers(400, size=count)]
    rows = rows + 0.7 * fall * chance.standard_normal((count, DIM)) + fall[0] * np.eye(DIM)[3]
    return unit(rows + gap * np.linalg.norm(rows, axis=1).mean() / DIM**0.5 * away)


@pytest.fixture(scope="module")
def vectors():
    return like_a_model(ROWS, seed=1)


@pytest.fixture(scope="module")
def first(vectors):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "_QUERIES", 64)
        return FirstPass.fit(vectors)


@pytest.fixture(scope="module")
def codes(first, vectors):
    return first.encode(vectors)


@pytest.fixture
def few_tries(monkeypatch):
    monkeypatch.setattr(calibration, "_QUERIES", 16)
    monkeypatch.setattr(calibration, "_ROWS", 1 << 13)


def recall(found, exact):
    """The part of the hits that are as good as the worst of the right ones."""
    return np.mean(found[1] >= exact[1][:, -1:] - 1e-6)


@pytest.mark.parametrize("gap", [0, 0.7], ids=["as the rows", "elsewhere"])
@pytest.mark.parametrize("batch", [1, 200])
def test_nearly_all_of_the_best_are_found(first, codes, vectors, gap, batch):
    queries = like_a_model(200, seed=2, gap=gap)
    exact = exact_top(vectors, queries, 10)
    parts = [queries[start : start + batch] for start in range(0, 200, batch)]
    found = [np.concatenate(x) for x in zip(*(first.top(vectors, codes, q, 10) for q in parts))]
    assert recall(found, exact) >= (0.99 if batch == 1 else 0.999)


def test_scores_and_order_are_those_of_an_exact_search(first, codes, vectors):
    queries = like_a_model(12, seed=3)
    everything, all_scores = exact_top(vectors, queries, ROWS)
    rows, scores = first.top(vectors, codes, queries, 20)
    for number in range(12):
        place = np.argsort(everything[number])[rows[number]]  # of a row in the right order
        assert (np.diff(place) > 0).all()
        np.testing.assert_array_equal(all_scores[number][place], scores[number])


@pytest.mark.parametrize("part", [0.5, 0.05, 0.0002])
@pytest.mark.parametrize("batch", [1, 50])
def test_only_allowed_rows_are_found(first, codes, vectors, part, batch):
    queries = like_a_model(50, seed=4)[:batch]
    allowed = np.random.default_rng(0).random(ROWS) < part
    found, exact = (
        first.top(vectors, codes, queries, 10, allowed), exact_top(vectors, queries, 10, allowed),
    )  # fmt: skip
    assert allowed[found[0][found[0] >= 0]].all()
    np.testing.assert_array_equal(found[0] < 0, exact[0] < 0)
    assert recall(found, exact) >= 0.99


@pytest.mark.parametrize("k", [1, 100, ROWS + 1])
def test_any_number_of_hits_can_be_asked_for(first, codes, vectors, k):
    queries = like_a_model(20, seed=5)
    found, exact = first.top(vectors, codes, queries, k), exact_top(vectors, queries, k)
    assert found[0].shape == exact[0].shape == (20, min(k, ROWS))
    assert recall(found, exact) >= 0.99


def test_blocks_change_nothing_but_candidates(first, codes, vectors, monkeypatch):
    queries = like_a_model(40, seed=6)
    exact = exact_top(vectors, queries, 10)
    monkeypatch.setattr(first_pass, "_SCORES", 40 * 1000)
    monkeypatch.setattr(first_pass, "_QUERIES", 40)
    assert recall(first.top(vectors, codes, queries, 10), exact) >= 0.999
    monkeypatch.setattr(first_pass, "_QUERIES", 7)
    assert recall(first.top(vectors, codes, queries, 10), exact) >= 0.999


def test_equal_rows_are_found_in_order(first, vectors):
    same = np.concatenate([vectors[:22_000], np.repeat(vectors[5:6], 2000, axis=0)])
    rows, scores = first.top(same, first.encode(same), vectors[5:6], 30)
    assert rows[0].tolist() == [5, *range(22_000, 22_029)]
    assert len(np.unique(scores)) == 1


def test_it_survives_the_disk(first, codes, vectors, tmp_path):
    np.savez(tmp_path / "first.npz", **first.arrays())
    np.save(tmp_path / "codes.npy", codes)
    with np.load(tmp_path / "first.npz") as arrays:
        again = FirstPass.from_arrays(dict(arrays))
    mapped = np.load(tmp_path / "codes.npy", mmap_mode="r")
    assert mapped.flags.f_contiguous
    queries = like_a_model(30, seed=7)
    for batch in (queries, queries[:1]):
        ours, theirs = again.top(vectors, mapped, batch, 10), first.top(vectors, codes, batch, 10)
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])


def test_the_same_rows_give_the_same_codes(few_tries, vectors):
    one, other = (FirstPass.fit(vectors[:MIN_ROWS]) for _ in range(2))
    for name, array in one.arrays().items():
        np.testing.assert_array_equal(array, other.arrays()[name])


def test_few_rows_need_none(vectors):
    assert FirstPass.fit(vectors[: MIN_ROWS - 1]) is None


def test_vectors_without_structure_have_none(few_tries):
    noise = np.random.default_rng(0).standard_normal((MIN_ROWS, DIM))
    assert FirstPass.fit(unit(noise)) is None


def test_a_query_unlike_any_tried_is_compared_with_all(first, codes, vectors):
    axes = first.coder.learned.rotation.T[-8:]  # where the rows hardly differ
    plan = first.calibration.plan(first.coder.rests(first.coder.turn(axes)), vectors.shape, 10)
    assert (plan.first == 0).all() and (plan.second == 0).all()
    found, exact = first.top(vectors, codes, axes, 10), exact_top(vectors, axes, 10)
    np.testing.assert_array_equal(found[0], exact[0])


@pytest.mark.parametrize("dim", [8, 40, 100])
def test_rough_scores_follow_the_products_at_any_width(dim):
    vectors = like_a_model(3000, seed=8)[:, :dim]
    coder = Coder.fit(vectors, np.random.default_rng(0))
    codes, queries = coder.encode(vectors), vectors[:5]
    turned = coder.turn(queries)
    exact = queries @ vectors.T
    for depth in coder.depths:
        asked = coder.ask(turned, depth)
        rough = coder.rough(codes, asked)
        for number in range(5):
            agreement = coder.agreement(codes, slice(None), asked, number)
            picked = coder.agreement(codes, np.arange(9), asked, number)
            np.testing.assert_array_equal(picked, agreement[:9])
            better = coder.better(codes, slice(None), rough[number], agreement, asked, number)
            assert np.corrcoef(better, exact[number])[0, 1] > (0.98 if depth > 90 else 0.5)
