"""Near copies, reranking by captions, many queries at once, pictures that are known already."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmfm.errors import DataError, ImageError, InputError, ModelError
from mmfm.index import Index


@pytest.fixture
def crowd(embedder, tmp_path, make_noise):
    """Five pictures, each in four versions that differ by a grain, and three alone."""
    folder = tmp_path / "crowd"
    folder.mkdir()
    for picture in range(8):
        base = np.asarray(make_noise(picture)).astype(int)
        for version in range(4 if picture < 5 else 1):
            grain = np.random.default_rng(version).integers(-2, 3, base.shape) * (version > 0)
            pixels = np.clip(base + grain, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{picture}-{version}.png")
    return Index.build(embedder, folder)


def names(hits):
    return [Path(hit.path).stem for hit in hits]


def test_dedupe_keeps_the_first_of_every_group(crowd):
    for k in (1, 3, 8, 100):
        hits = crowd.search("red", k, dedupe=0.99)
        every = crowd.search("red", 100)
        firsts = {}
        for hit in every:
            firsts.setdefault(Path(hit.path).stem[0], hit)
        assert hits == list(firsts.values())[:k]
    assert crowd.search("red", 100, dedupe=1.0) == every
    for wrong in (0, -1, 1.5, "near", True):
        with pytest.raises(DataError, match="cosine"):
            crowd.search("red", dedupe=wrong)


def test_duplicates_are_the_groups_of_brute_force(crowd):
    groups = crowd.duplicates(0.99)
    assert [names_of(group) for group in groups] == [
        [f"{picture}-{version}" for version in range(4)] for picture in range(5)
    ]
    cosines = crowd.vectors @ crowd.vectors.T
    for threshold in (0.2, 0.35, 0.5):
        linked = cosines >= threshold
        for _ in range(len(linked)):
            linked = linked | (linked.astype(int) @ linked.astype(int) > 0)
        wanted = {tuple(np.flatnonzero(row)) for row in linked if row.sum() > 1}
        found = {
            tuple(crowd.paths.index(path) for path in group)
            for group in crowd.duplicates(threshold)
        }
        assert found == wanted


def names_of(paths):
    return [Path(path).stem for path in paths]


def test_many_queries_at_once_are_the_queries_one_by_one(crowd, embedder):
    queries = ["red", ["blue", ("red", -0.5)], crowd.vectors[3], Path(crowd.paths[7]), "red"]
    options = {"where": "width=8", "dedupe": 0.99}
    together = crowd.search_many(queries, 5, **options)
    assert together == [crowd.search(query, 5, **options) for query in queries]
    assert crowd.search_many(crowd.vectors[:4], 1) == [
        crowd.search(v, 1) for v in crowd.vectors[:4]
    ]
    assert crowd.search_many([], 5) == []
    for wrong in ("red", Path("a.png"), None):
        with pytest.raises(DataError, match="list"):
            crowd.search_many(wrong)


class Scorer:
    """The colour embedder with captions: a picture fits a text as its name is far in the order."""

    def __init__(self, embedder):
        self.embedder = embedder

    def __getattr__(self, name):
        return getattr(self.embedder, name)

    def caption_score(self, images, texts):
        assert set(texts) == {"red"}
        return np.array([float(Path(image).stem.replace("-", ".")) for image in images])


def test_rerank_orders_the_best_by_caption_score_and_leaves_the_rest(crowd, embedder):
    scorer = Scorer(embedder)
    plain = crowd.search("red", 9)
    hits = crowd.search("red", 9, rerank=4, model=scorer)
    by_name = sorted(names(plain[:4]), reverse=True)
    assert names(hits) == by_name + names(plain[4:])
    assert [hit.caption_score is None for hit in hits] == [False] * 4 + [True] * 5
    assert {hit.path: hit.score for hit in hits} == {hit.path: hit.score for hit in plain}
    few = crowd.search("red", 2, rerank=9, model=scorer)
    assert names(few) == sorted(names(plain), reverse=True)[:2]
    assert crowd.search("red", 3, rerank=3, model=scorer, where="width=9") == []


def test_rerank_wants_one_text_and_a_model_with_captions(crowd, embedder):
    scorer = Scorer(embedder)
    for query, minus in ((crowd.vectors[0], None), (["red", "blue"], None), ("red", "blue")):
        with pytest.raises(DataError, match="exactly one text"):
            crowd.search(query, minus=minus, rerank=3, model=scorer)
    with pytest.raises(ModelError, match="caption head"):
        crowd.search("red", rerank=3)
    with pytest.raises(DataError, match="rerank=0"):
        crowd.search("red", rerank=0, model=scorer)


def test_a_picture_of_the_index_is_found_by_its_bytes_without_a_model(
    embedder, gallery, tmp_path, make_noise
):
    Index.build(embedder, gallery, tmp_path / "index")
    index = Index.open(tmp_path / "index")
    red = (gallery / "red.png").read_bytes()
    (tmp_path / "copy.png").write_bytes(red)
    for query in (gallery / "red.png", red, tmp_path / "copy.png", str(tmp_path / "copy.png")):
        assert index.needs(image=query) == set()
        [hit] = index.search(image=query, k=1)
        assert hit.path == str(gallery / "red.png") and hit.score == pytest.approx(1, abs=1e-6)
    assert (
        index.search([(red, 1.0), (gallery / "blue.png", -0.5)], 1)[0].metadata["path"] == "red.png"
    )
    make_noise(500).save(gallery / "red.png")  # changed since
    assert index.needs(image=gallery / "red.png") == {"pictures"}
    assert index.needs("red", image=gallery / "red.png", minus=red) == {"texts", "pictures"}
    with pytest.raises(ModelError, match="a picture needs the model"):
        index.search(gallery / "red.png")
    with pytest.raises(InputError):
        Index.open(tmp_path / "index", embedder).search(image="nowhere.png")
    with pytest.raises(ImageError):
        Index.open(tmp_path / "index", embedder).search(image=b"no picture")
