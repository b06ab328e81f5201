"""Evaluation of the tiny model over every kind of data: read once, held never, always equal."""

import io
import weakref

import numpy as np
import pytest
from PIL import Image

from mmfm.data import Sample, write_shards
from mmfm.data.bad import BadSamples
from mmfm.errors import DataError, InputError
from mmfm.evaluation import Chosen, evaluate, is_held_out, open_samples
from mmfm.evaluation.gathered import BLOCK
from mmfm.evaluation.samples import Held

COLOURS = ("red", "green", "blue", "gold")


def picture(colour, place):
    pixels = np.random.default_rng(place).integers(0, 60, (16, 16, 3), dtype=np.uint8)
    image = Image.fromarray(pixels // 2 + np.asarray(Image.new("RGB", (16, 16), colour)) // 2)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def sample(place):
    colour = COLOURS[place % 4]
    texts = (f"{colour} number {place}", f"a {colour} square")
    meta = {"key": f"s:{place}", "category": colour, "set": "even" if place % 2 == 0 else "odd"}
    return Sample(f"{place:05d}", picture(colour, place), texts, meta)


@pytest.fixture(scope="module")
def samples():
    return [sample(place) for place in range(80)]


@pytest.fixture(scope="module")
def shards(samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(samples, folder, max_count=30)
    return folder


NAMING = ("retrieval", "zero_shot", "calibration", "probe", "knn")


def test_a_list_and_its_shards_have_the_same_figures(tiny_model, samples, shards):
    held = evaluate(tiny_model, samples, parts=NAMING, gallery=50)
    read = evaluate(tiny_model, open_samples(shards), parts=NAMING, gallery=50)
    assert read["data"] == held["data"]
    for part in ("retrieval", "zero_shot"):
        assert read[part] == pytest.approx(held[part], abs=1e-4)
    assert held["probe"]["num_examples"] + held["probe"]["num_images"] == 80
    assert held["knn"]["num_images"] == sum(is_held_out(f"s:{place}") for place in range(80))
    assert held["probe"]["top1"] >= 0.5 > held["probe"]["chance"]


def test_class_folders_and_tables_are_read_too(tiny_model, samples, tmp_path):
    for one in samples[:24]:
        folder = tmp_path / "classes" / one.meta["category"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{one.key}.png").write_bytes(one.image)
    figures = evaluate(
        tiny_model, open_samples(tmp_path / "classes"), parts=["zero_shot", "knn"], label="class",
        train=open_samples(tmp_path / "classes"),
    )  # fmt: skip
    assert figures["zero_shot"]["num_images"] == 24
    assert figures["zero_shot"]["num_labels"] == 4
    assert figures["knn"]["num_examples"] == 24
    by_caption = evaluate(
        tiny_model, open_samples(tmp_path / "classes"), parts=["zero_shot"], label="caption"
    )
    assert by_caption["zero_shot"] == figures["zero_shot"]


def test_every_caption_may_be_asked_for(tiny_model, samples):
    first = evaluate(tiny_model, samples, parts=["retrieval"])["retrieval"]
    every = evaluate(tiny_model, samples, parts=["retrieval"], captions="all")["retrieval"]
    assert first["num_captions"] == 80
    assert (every["num_texts"], every["num_captions"]) == (160, 84)
    # half of the texts fit 20 pictures each, so that a random order finds them sooner
    assert every["text_to_image_recall@1_chance"] == pytest.approx((1 / 80 + 20 / 80) / 2)
    with pytest.raises(InputError, match="'some'"):
        evaluate(tiny_model, samples, parts=["retrieval"], captions="some")


def test_vectors_of_a_store_are_used_and_equal(tiny_model, samples, shards, tmp_path):
    from mmfm.jobs.embed import embed_shards, open_store

    embed_shards(tiny_model, shards, tmp_path / "store")
    store = open_store(tmp_path / "store", tiny_model)
    before = store.size("pooled")

    class Blind:
        """The model without its eyes: any picture that is not in the store is an error."""

        def __getattr__(self, name):
            assert name != "embed_images"
            return getattr(tiny_model, name)

    stored = evaluate(Blind(), samples, parts=["retrieval", "zero_shot"], store=store)
    fresh = evaluate(tiny_model, samples, parts=["retrieval", "zero_shot"])
    assert stored["data"] == fresh["data"]
    assert stored["zero_shot"] == pytest.approx(fresh["zero_shot"], abs=0.03)
    assert store.size("pooled") == before


def test_samples_are_not_held_after_their_block(tiny_model):
    read, most = [], 0

    class Stream:
        def __len__(self):
            return 3 * BLOCK

        def read(self, places, on_bad):
            nonlocal most
            for place in range(len(self)):
                one = Sample(
                    f"{place}", sample(0).image, ("red",), {"category": COLOURS[place % 2]}
                )
                read.append(weakref.ref(one))
                most = max(most, sum(ref() is not None for ref in read))
                yield one

    figures = evaluate(tiny_model, Stream(), parts=["zero_shot", "reconstruction"])
    assert figures["data"]["num_samples"] == figures["reconstruction"]["num_images"] == 3 * BLOCK
    assert most <= 2 * BLOCK + 2


def test_a_damaged_picture_is_counted_and_changes_no_other(tiny_model, samples):
    damaged = [*samples[:10], Sample("bad", samples[10].image[:60], ("red",), {}), *samples[10:20]]
    policy = BadSamples("skip", max_fraction=0.1)
    figures = evaluate(tiny_model, damaged, parts=["retrieval"], on_bad=policy)
    whole = evaluate(tiny_model, samples[:20], parts=["retrieval"])
    assert figures["data"] == {**whole["data"], "num_given": 21, "num_bad": 1}
    assert figures["retrieval"] == pytest.approx(whole["retrieval"], abs=1e-4)
    assert [record["cause"] for record in policy.records] == ["not-an-image"]
    with pytest.raises(DataError, match="bad"):
        evaluate(tiny_model, damaged, parts=["retrieval"])


def test_chosen_samples_keep_their_places_past_damaged_ones(samples, shards):
    even = Chosen(open_samples(shards), lambda one: one.meta["set"] == "even")
    assert len(even) == 40
    skip = BadSamples("skip")
    assert [one.meta["key"] for one in even.read([0, 3], skip)] == ["s:0", "s:6"]

    class Holed(Held):
        def read(self, places, on_bad):
            for one in super().read(places, on_bad):
                if one.meta["key"] not in ("s:3", "s:40"):
                    yield one

    holed = Chosen(Holed(samples), lambda one: one.meta["set"] == "even")
    found = [one.meta["key"] for one in holed.read(None, skip)]
    assert found == [f"s:{place}" for place in range(0, 80, 2) if place != 40]


def test_too_few_examples_are_refused_and_not_measured(tiny_model, samples):
    with pytest.raises(DataError, match="two labels"):
        evaluate(tiny_model, samples[:5], parts=["knn"], label="absent")
    with pytest.raises(DataError, match="no training sample"):
        evaluate(tiny_model, samples, parts=["knn"], train=[])


def test_the_house_rule_holds_out_one_in_twenty():
    share = np.mean([is_held_out(f"twemoji:{place}") for place in range(20_000)])
    assert share == pytest.approx(1 / 20, abs=0.005)
