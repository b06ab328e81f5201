"""Search: the same as brute force, whatever the query is made of."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmfm.errors import DataError, ImageError, InputError, ModelError
from mmfm.index import Hit, Index


@pytest.fixture
def index(embedder, gallery):
    return Index.build(embedder, gallery)


def unit(vector):
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("k", [1, 3, 15, 100])
@pytest.mark.parametrize("block", [1, 4, 65_536])
def test_equals_brute_force(index, monkeypatch, k, block):
    monkeypatch.setattr("mmfm.index.scan._SCORES", block)
    for seed in range(5):
        vector = np.random.default_rng(seed).standard_normal(32)
        hits = index.search(vector, k)
        scores = index.vectors @ unit(vector)
        assert [hit.row for hit in hits] == np.argsort(-scores)[:k].tolist()
        np.testing.assert_allclose([h.score for h in hits], np.sort(scores)[::-1][:k], atol=1e-6)
        assert len(hits) == min(k, len(index))


def test_hits_are_frozen_absolute_and_agree_with_paths(index, gallery):
    hits = index.search("red", k=100)
    assert isinstance(hits[0], Hit) and hits[0].path == str(gallery / "red.png")
    assert all(hit.path == index.paths[hit.row] and Path(hit.path).is_file() for hit in hits)
    with pytest.raises(AttributeError):
        hits[0].score = 1.0


def test_words_pictures_and_vectors_find_their_like(index, gallery):
    red = gallery / "red.png"
    queries = [
        "red",
        red,
        red.read_bytes(),
        Image.open(red),
        index.vectors[index.paths.index(str(red))],
    ]
    for query in queries:
        hit = index.search(query, k=1)[0]
        assert hit.path == str(red) and hit.score == pytest.approx(1, abs=1e-5)
    assert index.search(image=str(red), k=1)[0].path == str(red)
    assert index.search(image=str(red), k=1) == index.search(red, k=1)


def test_every_picture_finds_itself(index):
    for row, path in enumerate(index.paths):
        assert index.search(Path(path), k=1)[0].row == row


def test_mix_is_the_weighted_sum_of_unit_parts(index, embedder, gallery):
    words, vector = embedder.embed_texts(["red"])[0], 7.0 * index.vectors[3]
    hits = index.search([("red", 2.0), vector, (gallery / "blue.png", 0.5)], k=100)
    blue = embedder.embed_images([gallery / "blue.png"])[0]
    wanted = index.vectors @ unit(2 * words + unit(vector) + 0.5 * blue)
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(wanted)[::-1], atol=2e-6)
    assert index.search("red", image=gallery / "blue.png") == index.search(
        ["red", gallery / "blue.png"]
    )
    assert index.search(("red", 3.0)) == index.search("red")


def test_minus_is_subtracted_with_weight_one(index, embedder):
    both, red = embedder.embed_texts(["red blue"])[0], embedder.embed_texts(["red"])[0]
    hits = index.search("red blue", minus="red", k=100)
    wanted = index.vectors @ unit(both - red)
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(wanted)[::-1], atol=2e-6)
    assert hits == index.search([("red blue", 1.0), ("red", -1.0)], k=100)
    half = index.search("red blue", minus=("red", 0.5), k=100)
    assert half == index.search([("red blue", 1.0), ("red", -0.5)], k=100)


def test_equal_pictures_tie_and_come_by_path(embedder, tmp_path, make_noise):
    for name in np.random.default_rng(0).permutation(60):
        make_noise(name % 2).save(tmp_path / f"{name:02}.bmp")
    index = Index.build(embedder, tmp_path)
    assert embedder.seen == 2  # equal bytes are embedded once
    even_first = [*range(0, 60, 2), *range(1, 60, 2)]
    for k in (3, 60):
        names = [Path(hit.path).stem for hit in index.search(tmp_path / "00.bmp", k=k)]
        assert names == [f"{number:02}" for number in even_first[:k]]
    assert index.search("red", k=3) == index.search("red", k=3)


@pytest.mark.parametrize("k", [0, -1, 2.5, "ten", None])
def test_a_bad_k_is_refused(index, k):
    with pytest.raises(DataError):
        index.search("red", k)


@pytest.mark.parametrize(
    ("query", "minus", "kind"),
    [
        (None, None, DataError),
        ([], None, DataError),
        (None, "red", DataError),
        ("red", "red", DataError),
        ([("red", float("nan"))], None, DataError),
        (np.zeros(32), None, DataError),
        (np.full(32, np.nan), None, DataError),
        (np.ones(31), None, DataError),
        (Path("nowhere.png"), None, ImageError),
        (3, None, InputError),
    ],
)
def test_bad_queries_are_refused(index, query, minus, kind):
    with pytest.raises(kind):
        index.search(query, minus=minus)


def test_a_folder_is_no_query(index, gallery):
    with pytest.raises(DataError, match="folder"):
        index.search(image=gallery)


def test_words_and_new_pictures_need_the_model_that_made_the_index(
    embedder, gallery, tmp_path, make_embedder, make_noise
):
    Index.build(embedder, gallery, tmp_path / "index")
    index = Index.open(tmp_path / "index")
    make_noise(99).save(tmp_path / "new.png")
    for query in ("red", tmp_path / "new.png"):
        with pytest.raises(ModelError, match="model="):
            index.search(query)
    assert index.search(index.vectors[0], k=1)[0].row == 0
    assert index.search("red", k=1, model=embedder)[0].path.endswith("red.png")
    other = make_embedder(seed=1)
    with pytest.raises(ModelError, match="build"):
        index.search("red", model=other)
    with pytest.raises(ModelError, match="build"):
        Index.open(tmp_path / "index", other)
