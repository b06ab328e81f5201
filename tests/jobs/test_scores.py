"""Scores and vectors for the filters equal those of the model, from whatever source they come."""

import warnings

import numpy as np
import pytest

from mmfm.data import Sample, write_shards
from mmfm.data.dataset import ShardDataset
from mmfm.data.filters import CaptionFilter
from mmfm.data.filters.pipeline import EditedSamples
from mmfm.jobs import scores as module
from mmfm.jobs.embed import embed_shards, open_store
from mmfm.jobs.scores import PairScores
from tests.data.filters.pictures import encode, sample, scene

COUNT = 11
CAPTIONS = ["a red circle", "a tree in the garden behind the house", "sea"]


@pytest.fixture(scope="module")
def samples():
    return [
        sample(seed, CAPTIONS[seed % 3] + f" {seed}", image=encode(scene(seed, (40, 32))))
        for seed in range(COUNT)
    ]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)
    monkeypatch.setattr(module, "IMAGES", 3)


def expected(model, samples):
    images = model.embed_images([one.image for one in samples])
    return images, (images * model.embed_texts([one.captions[0] for one in samples])).sum(axis=1)


def test_scores_are_cosines_of_picture_and_first_caption(tiny_model, samples, small_blocks):
    vectors, cosines = expected(tiny_model, samples)
    pairs = PairScores(tiny_model, samples.__getitem__)
    rows = np.array([0, 2, 3, 4, 7, 9, 10])
    np.testing.assert_allclose(pairs.scores(rows), cosines[rows], atol=1e-5)
    np.testing.assert_allclose(pairs.vectors(rows[1:5]), vectors[rows[1:5]], atol=1e-5)


def test_vectors_that_were_scored_are_not_embedded_again(tiny_model, samples, small_blocks):
    asked = []

    def read(row):
        asked.append(row)
        return samples[row]

    pairs = PairScores(tiny_model, read)
    first = pairs.vectors(np.arange(COUNT))
    assert asked == list(range(COUNT))
    pairs.scores(np.arange(COUNT))
    asked.clear()
    again = pairs.vectors(np.arange(1, COUNT))
    assert asked == []
    np.testing.assert_allclose(again, first[1:], atol=1e-6)


def test_what_cannot_be_scored_is_nan_and_has_no_vector(tiny_model, samples):
    broken = Sample("x", samples[0].image[:50], ("a tree",))
    silent = Sample("y", samples[1].image, ())
    blank = Sample("z", samples[1].image, ("  ",))
    pairs = PairScores(tiny_model, [samples[0], broken, silent, blank].__getitem__)
    assert np.isnan(pairs.scores(np.arange(4))).tolist() == [False, True, True, True]
    assert pairs.vectors(np.arange(4)).any(axis=1).tolist() == [True, False, True, True]


def test_no_rows_give_no_scores(tiny_model, samples):
    pairs = PairScores(tiny_model, samples.__getitem__)
    nothing = np.empty(0, np.int64)
    assert pairs.scores(nothing).shape == (0,)
    assert pairs.vectors(nothing).shape == (0, tiny_model.embed_dim)


def test_a_store_is_used_for_what_it_holds(tiny_model, samples, small_blocks, tmp_path):
    write_shards(samples[:6], tmp_path / "some")
    embed_shards(tiny_model, tmp_path / "some", tmp_path / "store", kinds=("pooled", "text"))
    embedded = []

    class Watched:
        """The model, with a list of how many pictures and texts it was given."""

        def __getattr__(self, name):
            method = getattr(tiny_model, name)
            if name not in ("embed_images", "embed_texts"):
                return method

            def watched(things, **options):
                embedded.append((name, len(things)))
                return method(things, **options)

            return watched

    store = open_store(tmp_path / "store", tiny_model)
    pairs = PairScores(Watched(), samples.__getitem__, store=store)
    got = pairs.scores(np.arange(COUNT))
    np.testing.assert_allclose(got, expected(tiny_model, samples)[1], atol=1e-3)
    for kind in ("embed_images", "embed_texts"):
        assert sum(count for name, count in embedded if name == kind) == COUNT - 6
    assert pairs.facts()["store"] == str(tmp_path / "store")


def test_scores_see_captions_as_they_are_kept(tiny_model, samples, tmp_path):
    doubled = [Sample(one.key, one.image, ("IMG_12.jpg", *one.captions)) for one in samples]
    write_shards(doubled, tmp_path / "in")
    dataset = ShardDataset.open(tmp_path / "in")
    pairs = PairScores(tiny_model, EditedSamples(dataset, [CaptionFilter(clean=True)]).read)
    got = pairs.scores(np.arange(COUNT))
    np.testing.assert_allclose(got, expected(tiny_model, samples)[1], atol=1e-5)


def test_captions_that_are_cut_give_one_warning(tiny_model, samples, small_blocks):
    long = [Sample(one.key, one.image, ("a very long tale " * 90,)) for one in samples]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        PairScores(tiny_model, long.__getitem__).scores(np.arange(COUNT))
    assert [str(one.message).startswith("some captions are longer") for one in said] == [True]


def test_facts_name_the_towers(tiny_model, samples):
    facts = PairScores(tiny_model, samples.__getitem__).facts()
    assert facts["model"] == tiny_model.name
    assert len(facts["image_tower"]) == len(facts["text_tower"]) == 64
