"""Filling the store: what it holds is what the model says; nothing is done twice, or lost."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mmfm
from mmfm.data.bad import BadSamples, SampleError
from mmfm.data.dataset import ShardDataset
from mmfm.data.sample import Sample
from mmfm.data.store import EmbeddingStore, content_key, normalise
from mmfm.errors import DataError, InputError, ModelError
from mmfm.jobs.embed import embed_shards, identity_of, image_keys, open_store

ROOT = Path(__file__).parents[2]
ALL = ("pooled", "grid", "text")


def files(folder):
    """Every file of a store with its identity on disk: a file written again has another."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def samples_of(folder):
    dataset = ShardDataset.open(folder)
    return [dataset.read(row) for row in range(len(dataset))]


@torch.inference_mode()
def grids_of(model, images):
    from mmfm.preprocess.images import load_image

    pixels = np.stack([model.preprocess(load_image(image)) for image in images])
    return model.backbone.encode_images(torch.from_numpy(pixels)).tokens.numpy()


@pytest.mark.parametrize(("batch_size", "num_workers"), [(64, 0), (5, 0), (4, 3)])
def test_what_is_stored_is_what_the_model_says(
    tiny_model, make_shards, tmp_path, batch_size, num_workers
):
    folder = make_shards()
    report = embed_shards(tiny_model, folder, tmp_path / "store", kinds=ALL,
                          batch_size=batch_size, num_workers=num_workers)  # fmt: skip
    samples = samples_of(folder)
    images = [sample.image for sample in samples]
    texts = sorted({text for sample in samples for text in sample.captions})
    assert report.as_dict() == {
        "shards": 4, "samples": 24, "bad": {}, "damaged": [],
        "embedded": {"pooled": 24, "grid": 24, "text": len({normalise(t) for t in texts})},
    }  # fmt: skip
    store = open_store(tmp_path / "store", tiny_model)
    keys = [content_key(image) for image in images]
    eps = 2**-11  # half precision, relative to the entry
    for kept, direct in (
        (store.rows("pooled").get(keys), tiny_model.embed_images(images)),
        (store.grids(keys), grids_of(tiny_model, images)),
        (store.texts(texts) , tiny_model.embed_texts(texts)),
    ):  # fmt: skip
        assert kept.shape == direct.shape
        difference = np.abs(kept.astype(np.float64) - direct)
        assert (difference <= 1e-6 + 2 * eps * np.abs(direct)).all()
    # and exactly half precision, nothing coarser: nearly all entries round to the same number
    same = store.rows("pooled").get(keys) == tiny_model.embed_images(images).astype(np.float16)
    assert same.mean() > 0.99


def test_a_second_run_writes_nothing_and_reads_no_sample(
    tiny_model, make_shards, tmp_path, monkeypatch
):
    folder = make_shards()
    embed_shards(tiny_model, folder, tmp_path / "store", kinds=ALL)
    before = files(tmp_path / "store")

    def refuse(self, row):
        raise AssertionError(f"row {row} was read again")

    monkeypatch.setattr(ShardDataset, "read", refuse)
    for kinds in (ALL, ("pooled",), ("text", "grid")):
        report = embed_shards(tiny_model, folder, tmp_path / "store", kinds=kinds)
        assert report.samples == 24
        assert not report.embedded
    assert files(tmp_path / "store") == before


def test_a_kind_asked_for_later_is_added_beside_the_others(tiny_model, make_shards, tmp_path):
    folder = make_shards()
    embed_shards(tiny_model, folder, tmp_path / "store")
    before = files(tmp_path / "store")
    report = embed_shards(tiny_model, folder, tmp_path / "store", kinds=ALL)
    assert report.embedded["pooled"] == 0
    assert report.embedded["grid"] == 24
    assert report.embedded["text"] > 0
    after = files(tmp_path / "store")
    assert {k: after[k] for k in before if "pooled" in k} == {
        k: v for k, v in before.items() if "pooled" in k
    }


def test_equal_pictures_and_captions_are_embedded_once(
    tiny_model, make_shards, make_sample, make_picture, tmp_path
):
    """Twice in a shard, again in another shard, again in another set of shards."""
    one = [make_sample(i) for i in range(12)]
    twins = [Sample(f"twin{i}", make_picture(i % 3), ("a picture",)) for i in range(6)]
    folder = make_shards(one + twins)
    report = embed_shards(tiny_model, folder, tmp_path / "store", kinds=ALL)
    assert (report.samples, report.embedded["pooled"], report.embedded["grid"]) == (18, 12, 12)
    other = make_shards([replace(s, key=f"x{s.key}") for s in one], each=5, name="other")
    report = embed_shards(tiny_model, other, tmp_path / "store", kinds=ALL)
    assert report.samples == 12
    assert not +report.embedded
    store = open_store(tmp_path / "store", tiny_model)
    assert store.size("pooled").rows == 12
    keys = [content_key(make_picture(i % 3)) for i in range(6)]
    assert np.array_equal(store.pooled(keys)[:3], store.pooled(keys)[3:])


def test_only_what_changed_in_a_shard_is_embedded(
    tiny_model, make_shards, make_sample, make_picture, tmp_path
):
    samples = [make_sample(i) for i in range(12)]
    folder = make_shards(samples)
    embed_shards(tiny_model, folder, tmp_path / "store")
    samples[7] = replace(samples[7], image=make_picture(99))
    make_shards(samples)
    report = embed_shards(tiny_model, folder, tmp_path / "store")
    assert report.embedded == {"pooled": 1}
    store = open_store(tmp_path / "store", tiny_model)
    assert store.has([content_key(make_picture(99)), content_key(make_picture(7))]).all()


def test_a_changed_tower_or_preprocessing_has_its_own_place(tiny_bundle, make_shards, tmp_path):
    folder, place = make_shards(), tmp_path / "store"
    model = mmfm.load(tiny_bundle, device="cpu")
    embed_shards(model, folder, place, kinds=ALL)
    before = files(place)
    first = identity_of(model)

    with torch.no_grad():
        next(model.backbone.towers.transformer.parameters()).add_(0.1)
    texts = identity_of(model)
    assert (texts.image, texts.preprocess) == (first.image, first.preprocess)
    assert texts.text != first.text
    report = embed_shards(model, folder, place, kinds=ALL)
    assert set(+report.embedded) == {"text"}  # images outlive a change of the text tower

    with torch.no_grad():
        next(model.backbone.towers.visual.parameters()).add_(0.1)
    images = identity_of(model)
    assert (images.image != first.image) and (images.text == texts.text)
    report = embed_shards(model, folder, place, kinds=ALL)
    assert +report.embedded == {"pooled": 24, "grid": 24}

    model.preprocess = replace(model.preprocess, resize_mode="squash")
    assert identity_of(model).preprocess != first.preprocess
    assert embed_shards(model, folder, place).embedded == {"pooled": 24}

    with torch.no_grad():
        model.backbone.towers.logit_scale.add_(1)
    assert not embed_shards(model, folder, place, kinds=("pooled", "text")).embedded

    after = files(place)
    assert {name: after[name] for name in before if "shards/" not in name} == {
        name: value for name, value in before.items() if "shards/" not in name
    }
    stale = open_store(place, model).prune()
    assert len(stale) == 3
    original = mmfm.load(tiny_bundle, device="cpu")
    assert not open_store(place, original).rows("pooled").files


def test_a_damaged_file_is_named_and_its_rows_alone_are_embedded_again(
    tiny_model, make_shards, tmp_path
):
    folder, place = make_shards(), tmp_path / "store"
    embed_shards(tiny_model, folder, place, kinds=("pooled", "grid"))
    store = open_store(place, tiny_model)
    wanted = store.pooled(image_keys(folder_dataset(folder), store))
    [path] = store.rows("pooled").folder.glob("00002-*")
    path.write_bytes(path.read_bytes()[:-50])
    [grid] = store.rows("grid").folder.glob("00001-*")
    data = bytearray(grid.read_bytes())
    data[5000] ^= 1
    grid.write_bytes(data)
    with pytest.raises(DataError, match="6 of 24 pictures are not in"):
        fresh = open_store(place, tiny_model)
        fresh.pooled(image_keys(folder_dataset(folder), fresh))
    report = embed_shards(tiny_model, folder, place, kinds=("pooled", "grid"))
    assert list(report.damaged) == [str(path)]
    assert +report.embedded == {"pooled": 6}
    report = embed_shards(tiny_model, folder, place, kinds=("pooled", "grid"), check=True)
    assert list(report.damaged) == [str(grid)]
    assert +report.embedded == {"grid": 6}
    store = open_store(place, tiny_model)
    again = store.pooled(image_keys(folder_dataset(folder), store))
    assert np.abs(again - wanted).max() < 1e-3
    assert not embed_shards(tiny_model, folder, place, kinds=("pooled", "grid")).damaged


def folder_dataset(folder):
    return ShardDataset.open(folder)


def test_keys_of_a_data_set_come_without_reading_it(tiny_model, make_shards, tmp_path):
    folder = make_shards()
    store = open_store(tmp_path / "store", tiny_model)
    with pytest.raises(DataError, match=r"00000.tar is not in .*mmfm data embed"):
        image_keys(ShardDataset.open(folder), store)
    embed_shards(tiny_model, folder, store)
    keys = image_keys(ShardDataset.open(folder), store)
    assert [key.tobytes().hex() for key in keys] == [
        content_key(sample.image) for sample in samples_of(folder)
    ]


def bad_samples(make_sample, count=24, wrong=(3, 10)):
    samples = [make_sample(i) for i in range(count)]
    for number in wrong:
        samples[number] = replace(samples[number], image=samples[number].image[:60])
    return samples


def test_the_first_bad_sample_stops_the_run_unless_told_otherwise(
    tiny_model, make_shards, make_sample, tmp_path
):
    folder = make_shards(bad_samples(make_sample))
    for _ in range(2):  # history makes no difference
        with pytest.raises(SampleError, match=r"00000.tar: sample '0003'") as caught:
            embed_shards(tiny_model, folder, tmp_path / "store")
        assert caught.value.cause == "not-an-image"


def test_bad_samples_are_left_out_counted_and_looked_at_again(
    tiny_model, make_shards, make_sample, tmp_path
):
    samples = bad_samples(make_sample)
    folder = make_shards(samples)
    for embedded in (22, 0):
        on_bad = BadSamples("skip", max_fraction=0.1)
        report = embed_shards(tiny_model, folder, tmp_path / "store", on_bad=on_bad)
        assert report.as_dict()["bad"] == {"not-an-image": 2}
        assert [record["key"] for record in on_bad.records] == ["0003", "0010"]
        assert on_bad.num_seen == 24
        assert report.embedded["pooled"] == embedded
    with pytest.raises(DataError, match="2 of 24 samples"):
        embed_shards(tiny_model, folder, tmp_path / "store",
                     on_bad=BadSamples("skip", max_fraction=0.05))  # fmt: skip
    keys = image_keys(ShardDataset.open(folder), open_store(tmp_path / "store", tiny_model))
    assert (~keys.any(axis=1)).nonzero()[0].tolist() == [3, 10]


def test_numbers_that_are_none_are_refused_and_nothing_is_kept(tiny_bundle, make_shards, tmp_path):
    model = mmfm.load(tiny_bundle, device="cpu")
    with torch.no_grad():
        next(model.backbone.towers.visual.parameters()).fill_(float("nan"))
    with pytest.raises(ModelError, match="NaN"):
        embed_shards(model, make_shards(), tmp_path / "store")
    assert not list((tmp_path / "store").rglob("pooled/*"))


def test_a_tower_without_tokens_cannot_fill_grids(tiny_bundle, make_shards, tmp_path, monkeypatch):
    model = mmfm.load(tiny_bundle, device="cpu")
    monkeypatch.setattr(type(model.backbone), "gives_tokens", False)
    with pytest.raises(ModelError, match="without grids"):
        embed_shards(model, make_shards(), tmp_path / "store", kinds=("grid",))
    assert embed_shards(model, tmp_path / "shards", tmp_path / "store").embedded["pooled"] == 24


def test_unknown_kinds_are_refused(tiny_model, make_shards, tmp_path):
    for kinds in ((), ("pooled", "audio")):
        with pytest.raises(InputError, match="wanted some of pooled, grid, text"):
            embed_shards(tiny_model, make_shards(), tmp_path / "store", kinds=kinds)


def test_kinds_apart_give_what_kinds_together_give(tiny_model, make_shards, tmp_path):
    folder = make_shards()
    embed_shards(tiny_model, folder, tmp_path / "one", kinds=ALL)
    for kind in ALL:
        embed_shards(tiny_model, folder, tmp_path / "two", kinds=(kind,))
    one, two = (EmbeddingStore(tmp_path / name) for name in ("one", "two"))
    keys = image_keys(ShardDataset.open(folder), one)
    assert np.array_equal(keys, image_keys(ShardDataset.open(folder), two))
    assert np.array_equal(one.pooled(keys), two.pooled(keys))
    assert np.array_equal(one.grids(keys), two.grids(keys))


DRIVER = """
import sys, time
import mmfm, mmfm.jobs.embed as jobs, mmfm.jobs.shard as shard
from mmfm.data.bad import BadSamples
model = mmfm.load(sys.argv[1], device="cpu")
embed = shard._embed_images
def slowly(*args):
    time.sleep(0.05)
    embed(*args)
shard._embed_images = slowly
report = jobs.embed_shards(model, sys.argv[2], sys.argv[3], kinds=("pooled", "grid"), batch_size=2)
import json
print(json.dumps(report.as_dict()))
"""


def start(bundle, folder, place):
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(bundle), str(folder), str(place)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.parametrize("after", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_killed_and_started_again_it_redoes_only_the_shard_in_hand(
    tiny_bundle, tiny_model, make_shards, tmp_path, after
):
    folder, place = make_shards(each=4), tmp_path / "store"  # six shards
    driver = start(tiny_bundle, folder, place)
    deadline = time.monotonic() + 60
    while len(list(place.glob("shards/[!.]*"))) < after:
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    left = {name: value for name, value in files(place).items() if "/." not in name}
    whole = sum(name.startswith("shards/") for name in left)
    assert after <= whole < 6

    again = start(tiny_bundle, folder, place)
    out, _ = again.communicate(timeout=60)
    report = json.loads(out)
    assert report["samples"] == 24
    assert report["embedded"]["pooled"] <= 24 - 4 * whole
    now = files(place)
    assert {name: now[name] for name in left} == left  # what was whole was not touched
    embed_shards(tiny_model, folder, tmp_path / "uninterrupted", kinds=("pooled", "grid"))
    one, two = EmbeddingStore(place), EmbeddingStore(tmp_path / "uninterrupted")
    keys = image_keys(ShardDataset.open(folder), one)
    assert np.abs(one.pooled(keys) - two.pooled(keys)).max() < 1e-3
    assert np.array_equal(one.grids(keys).shape, two.grids(keys).shape)
