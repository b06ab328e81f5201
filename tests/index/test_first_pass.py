"""The first pass finds nearly all of what an exact search finds, with the same scores."""

import numpy as np
import pytest

from mmfm.errors import DataError
from mmfm.index import FlatIndex, first_pass
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
    return FirstPass.fit(vectors)


def recall(found, exact):
    """The part of the hits that are as good as the worst of the right ones."""
    return np.mean(found[1] >= exact[1][:, -1:] - 1e-6)


@pytest.mark.parametrize("gap", [0, 0.7], ids=["as the rows", "elsewhere"])
@pytest.mark.parametrize("batch", [1, 200])
def test_nearly_all_of_the_best_are_found(first, vectors, gap, batch):
    queries = like_a_model(200, seed=2, gap=gap)
    exact = exact_top(vectors, queries, 10)
    parts = [queries[start : start + batch] for start in range(0, 200, batch)]
    found = [np.concatenate(x) for x in zip(*(first.top(vectors, part, 10) for part in parts))]
    assert recall(found, exact) >= 0.998


def test_few_rows_are_compared_exactly(first, vectors, monkeypatch):
    compared, count = [], first_pass.row_scores
    monkeypatch.setattr(
        first_pass, "row_scores", lambda v, q, rows: compared.append(len(rows)) or count(v, q, rows)
    )
    first.top(vectors, like_a_model(50, seed=2), 10)
    assert len(compared) == 50 and max(compared) < ROWS / 50


def test_scores_and_order_are_those_of_an_exact_search(first, vectors):
    queries = like_a_model(12, seed=3)
    everything, all_scores = exact_top(vectors, queries, ROWS)
    rows, scores = first.top(vectors, queries, 20)
    for number in range(12):
        place = np.argsort(everything[number])[rows[number]]  # of a row in the right order
        assert (np.diff(place) > 0).all()
        np.testing.assert_array_equal(all_scores[number][place], scores[number])


@pytest.mark.parametrize("part", [0.5, 0.05, 0.0002])
@pytest.mark.parametrize("batch", [1, 50])
def test_only_allowed_rows_are_found(first, vectors, part, batch):
    queries = like_a_model(50, seed=4)[:batch]
    allowed = np.random.default_rng(0).random(ROWS) < part
    found, exact = (
        first.top(vectors, queries, 10, allowed), exact_top(vectors, queries, 10, allowed),
    )  # fmt: skip
    assert allowed[found[0][found[0] >= 0]].all()
    np.testing.assert_array_equal(found[0] < 0, exact[0] < 0)
    assert recall(found, exact) >= 0.99


def test_when_all_that_is_near_is_forbidden_the_rest_is_compared(first, vectors):
    query = vectors[:1]
    everything, _ = exact_top(vectors, query, ROWS)
    allowed = np.ones(ROWS, bool)
    allowed[everything[0, : ROWS // 2]] = False
    found, exact = (way(vectors, query, 10, allowed) for way in (first.top, exact_top))
    np.testing.assert_array_equal(found[0], exact[0])
    np.testing.assert_array_equal(found[1], exact[1])


@pytest.mark.parametrize("k", [1, 100, ROWS + 1])
def test_any_number_of_hits_can_be_asked_for(first, vectors, k):
    queries = like_a_model(20, seed=5)
    found, exact = first.top(vectors, queries, k), exact_top(vectors, queries, k)
    assert found[0].shape == exact[0].shape == (20, min(k, ROWS))
    assert recall(found, exact) >= 0.99


def test_rows_added_later_are_found_too(first, vectors):
    more = np.concatenate([vectors, like_a_model(6000, seed=9)])
    queries = like_a_model(100, seed=10)
    assert recall(first.of(more).top(more, queries, 10), exact_top(more, queries, 10)) >= 0.998


def test_equal_rows_have_equal_scores(first, vectors):
    same = np.concatenate([vectors[:22_000], np.repeat(vectors[5:6], 2000, axis=0)])
    rows, scores = first.of(same).top(same, vectors[5:6], 30)
    assert {5, *range(22_000, 24_000)} >= set(rows[0].tolist())
    assert len(np.unique(scores)) == 1 and len(np.unique(rows)) == 30


def test_it_survives_the_disk(first, vectors, tmp_path):
    with open(tmp_path / "first.npz", "wb") as file:
        first.write(file)
    again = FirstPass(tmp_path / "first.npz")
    queries = like_a_model(30, seed=7)
    for batch in (queries, queries[:1]):
        for ours, theirs in zip(again.top(vectors, batch, 10), first.top(vectors, batch, 10)):
            np.testing.assert_array_equal(ours, theirs)
    (tmp_path / "first.npz").write_bytes(b"PK\x03\x04 no more")
    with pytest.raises(DataError, match="build the index again"):
        FirstPass(tmp_path / "first.npz").top(vectors, queries, 10)


def test_the_same_rows_give_the_same_codes(vectors, tmp_path):
    for name in ("one", "other"):
        with open(tmp_path / name, "wb") as file:
            FirstPass.fit(vectors[:MIN_ROWS]).write(file)
    with np.load(tmp_path / "one") as one, np.load(tmp_path / "other") as other:
        assert one.files == other.files
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("dim", [96, 101])
def test_any_width_will_do(vectors, dim):
    rows, queries = (unit(some[:, :dim]) for some in (vectors, like_a_model(40, seed=11)))
    first = FirstPass.fit(rows)
    assert recall(first.top(rows, queries, 10), exact_top(rows, queries, 10)) >= 0.99


def test_few_or_short_rows_need_none(vectors):
    assert FirstPass.fit(vectors[: MIN_ROWS - 1]) is None
    assert FirstPass.fit(unit(vectors[:, :8])) is None


def test_vectors_without_structure_have_none():
    noise = np.random.default_rng(0).standard_normal((MIN_ROWS, 4 * DIM), dtype=np.float32)
    assert FirstPass.fit(unit(noise)) is None


def test_a_query_unlike_any_tried_is_compared_with_all(first, vectors, monkeypatch):
    monkeypatch.setattr(first_pass, "row_scores", None)  # of candidates
    differ = np.linalg.eigh(np.cov(vectors.T))[1].T
    axes = differ[:8].astype(np.float32)  # along these the rows hardly differ
    found, exact = first.top(vectors, axes, 10), exact_top(vectors, axes, 10)
    np.testing.assert_array_equal(found[0], exact[0])


def test_without_faiss_a_large_index_compares_all_rows(first, vectors, tmp_path, monkeypatch):
    ids = [f"{row:05}" for row in range(ROWS)]
    index = FlatIndex.create(tmp_path / "index")
    index.add(ids, vectors)
    assert list((tmp_path / "index").rglob("*.first.npz"))
    monkeypatch.setattr("mmfm.index.segment.available", lambda: False)
    queries = like_a_model(60, seed=12)
    found, exact = index.search(queries, 10), index.search(queries, 10, exact=True)
    assert found.ids == exact.ids
    index.add(["new"], queries[:1])
    assert FlatIndex.open(tmp_path / "index").search(queries[:1], 1).ids == [["new"]]
