"""`mmfm data embed`, and `mmfm index --store` that reads what it wrote."""

import json

import numpy as np
import pytest
from PIL import Image

from mmfm.data.sample import Sample
from mmfm.data.shards import write_shards
from mmfm.data.store import EmbeddingStore, content_key
from mmfm.index import Index


@pytest.fixture
def shards(pictures, tmp_path):
    """The three pictures as shards of two, with captions."""
    samples = [
        Sample(path.stem, path.read_bytes(), (f"a {path.stem} circle", "a circle"))
        for path in sorted(pictures.iterdir())
    ]
    write_shards(samples, tmp_path / "shards", max_count=2)
    return tmp_path / "shards"


def test_everything_asked_for_is_stored_and_counted(tiny, shards, tmp_path):
    store = tmp_path / "store"
    said = tiny("data", "embed", shards, "-o", store, "--grids", "--texts", "--json").document
    assert (said["shards"], said["samples"], said["bad"]) == (2, 3, {})
    assert said["embedded"] == {"pooled": 3, "grid": 3, "text": 4}
    assert {kind: kept["rows"] for kind, kept in said["kept"].items()} == said["embedded"]
    assert set(said["identity"]) == {"image", "preprocess", "text"}
    again = tiny("data", "embed", shards, "-o", store, "--grids", "--texts", "--json").document
    assert again["embedded"] == {}
    assert again["kept"] == said["kept"]


def test_people_are_told_in_words(tiny, shards, tmp_path):
    done = tiny("data", "embed", shards, "-o", tmp_path / "store")
    assert "3 samples in 2 shards, embedded now: 3 pooled; 0 left out" in done.out
    assert "nothing, all were there" in tiny("data", "embed", shards, "-o", tmp_path / "store").out


def test_single_shards_may_be_named(tiny, shards, tmp_path):
    one = tiny("data", "embed", shards / "00001.tar", "-o", tmp_path / "store", "--json").document
    assert (one["shards"], one["embedded"]) == (1, {"pooled": 1})
    both = [shards / "00000.tar", shards / "00001.tar"]
    two = tiny("data", "embed", *both, "-o", tmp_path / "store", "--json").document
    assert (two["shards"], two["embedded"]) == (2, {"pooled": 2})


def test_bad_samples_stop_it_or_are_left_out_by_name(tiny, shards, tmp_path):
    samples = [Sample("good", (tmp_path / "pictures/red.png").read_bytes(), ()),
               Sample("bad", b"\x89PNG\r\n\x1a\nrest", ())]  # fmt: skip
    write_shards(samples, shards)
    line = tiny("data", "embed", shards, "-o", tmp_path / "store").refused()
    assert "00000.tar" in line and "'bad'" in line
    line = tiny("data", "embed", shards, "-o", tmp_path / "store", "--on-bad", "skip").refused()
    assert "1 of 2 samples cannot be used" in line
    done = tiny("data", "embed", shards, "-o", tmp_path / "store", "--on-bad", "skip",
                "--max-bad", "0.5", "--json")  # fmt: skip
    assert done.document["bad"] == {"not-an-image": 1}
    assert "left out: " in done.err and "'bad'" in done.err


def test_a_damaged_file_is_named_and_made_again(tiny, shards, tmp_path):
    store = tmp_path / "store"
    tiny("data", "embed", shards, "-o", store)
    path = next(store.glob("*/pooled/00000-*"))
    data = bytearray(path.read_bytes())
    data[4096] ^= 1
    path.write_bytes(data)
    assert tiny("data", "embed", shards, "-o", store, "--json").document["damaged"] == []
    done = tiny("data", "embed", shards, "-o", store, "--check", "--json")
    assert done.document["damaged"] == [str(path)]
    assert done.document["embedded"] == {"pooled": 2}
    assert f"made again: {path}" in done.err


def test_wrong_calls_are_refused_in_one_line(tiny, shards, tmp_path):
    assert "no .tar" in tiny("data", "embed", tmp_path / "pictures", "-o", tmp_path / "s").refused()
    (tmp_path / "file").write_text("in the way")
    line = tiny("data", "embed", shards, "-o", tmp_path / "file" / "store").refused()
    assert "choose another" in line


def test_an_index_takes_its_vectors_from_the_store(tiny, shards, pictures, tmp_path):
    store = tmp_path / "store"
    tiny("data", "embed", shards, "-o", store)
    Image.new("RGB", (40, 40), "white").save(pictures / "white.png")
    said = tiny("index", pictures, "-o", tmp_path / "with", "--store", store, "--json").document
    assert (said["added"], said["reused"]) == (4, 3)
    plain = tiny("index", pictures, "-o", tmp_path / "without", "--json").document
    assert "reused" not in plain
    one, two = Index.open(tmp_path / "with"), Index.open(tmp_path / "without")
    assert [entry.path for entry in one.entries] == [entry.path for entry in two.entries]
    assert np.abs(one.vectors - two.vectors).max() < 5e-4  # half precision
    assert np.abs(np.linalg.norm(one.vectors, axis=1) - 1).max() < 1e-5
    stored = EmbeddingStore(store)
    for entry, vector in zip(one.entries, one.vectors, strict=True):
        if entry.path != "white.png":
            assert np.array_equal(vector, stored.pooled([entry.sha256])[0])
            assert entry.sha256 == content_key((pictures / entry.path).read_bytes())


def test_an_index_refuses_what_is_no_store_and_says_when_it_helps_nothing(
    tiny, run, tiny_bundle, shards, pictures, tmp_path
):
    line = tiny("index", pictures, "-o", tmp_path / "index", "--store", tmp_path).refused()
    assert "is no embedding store; make one with `mmfm data embed" in line
    tiny("data", "embed", shards, "-o", tmp_path / "store")
    note = next((tmp_path / "store").glob("images-*/space.json"))
    hashes = json.loads(note.read_text())
    note.parent.rename(note.parent.with_name("images-000000000000-000000000000"))
    assert set(hashes) == {"image", "preprocess", "model"}
    done = tiny(
        "index", pictures, "-o", tmp_path / "index", "--store", tmp_path / "store", "--json"
    )
    assert done.document["reused"] == 0
    assert "holds no vectors of tiny" in done.err
