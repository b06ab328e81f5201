"""Verbs that read pictures, on the tiny model: embed, index, search, classify, caption, info."""

import numpy as np
import pytest


def test_embed_writes_unit_vectors_and_keys(tiny, pictures, tmp_path):
    out = tmp_path / "out.npz"
    done = tiny("embed", pictures, "--text", "a tree", "-o", out, "--json")
    assert done.document["images"] == 3
    with np.load(out) as file:
        vectors, keys = file["vectors"], list(file["keys"])
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    names = [f"{pictures}/{colour}.png" for colour in ("blue", "green", "red")]
    assert keys == [*names, "a tree"]


def test_embed_counts_a_picture_once(tiny, pictures, tmp_path):
    done = tiny("embed", pictures, pictures / "red.png", "-o", tmp_path / "out.npz", "--json")
    assert done.document["images"] == 3


def test_an_index_is_built_once_and_then_kept(tiny, pictures, tmp_path):
    first = tiny("index", pictures, "-o", tmp_path / "index", "--json").document
    assert (first["added"], first["kept"], first["skipped"]) == (3, 0, [])
    (pictures / "red.png").rename(pictures / "rouge.png")
    (pictures / "bad.png").write_bytes(b"no picture")
    second = tiny("index", pictures, "-o", tmp_path / "index", "--json").document
    assert (second["kept"], second["removed"]) == (2, 1)
    assert [entry["path"] for entry in second["skipped"]] == ["bad.png"]


def test_index_tells_people_what_it_did(tiny, pictures, tmp_path):
    (pictures / "bad.png").write_bytes(b"no picture")
    done = tiny("index", pictures, "-o", tmp_path / "index")
    assert "3 added" in done.out
    assert "1 skipped" in done.out
    assert "bad.png" in done.err


def test_search_finds_the_picture_itself_first(tiny, pictures, tmp_path):
    tiny("index", pictures, "-o", tmp_path / "index")
    picture = pictures / "green.png"
    hits = tiny("search", tmp_path / "index", "--image", picture, "-k", 2, "--json").document
    assert [set(hit) for hit in hits] == [{"path", "score"}] * 2
    assert hits[0]["path"] == str(picture)
    assert hits[0]["score"] == pytest.approx(1, abs=1e-4)


def test_a_plain_folder_is_searched_as_its_index_is(tiny, pictures, tmp_path):
    tiny("index", pictures, "-o", tmp_path / "index")
    query = ("a red circle", "--image", pictures / "red.png", "--minus", "blue", "--json")
    plain = tiny("search", pictures, *query)
    indexed = tiny("search", tmp_path / "index", *query)  # its picture's vector is the stored one
    assert [hit["path"] for hit in plain.document] == [hit["path"] for hit in indexed.document]
    for one, other in zip(plain.document, indexed.document):
        assert one["score"] == pytest.approx(other["score"], abs=2e-6)
    assert "not an index" in plain.err


def test_classify_gives_every_label_a_share(tiny, pictures):
    labels = ["red", "blue", "green"]
    found = tiny("classify", pictures, "--labels", "red, blue,green", "--json").document
    assert len(found) == 3
    for entry in found:
        assert list(entry["scores"]) == labels
        assert sum(entry["scores"].values()) == pytest.approx(1, abs=1e-4)
        assert entry["scores"][entry["label"]] == max(entry["scores"].values())


def test_info_says_what_the_model_is(tiny):
    facts = tiny("info", "--json").document
    assert facts["image_size"] == 32
    assert "image_size" in tiny("info").out


def test_words_for_people_are_one_line_a_picture(tiny, pictures):
    for verb in (["caption"], ["classify", "--labels", "a,b"]):
        done = tiny(verb[0], pictures, *verb[1:])
        assert done.code == 0
        assert len(done.out.splitlines()) == 3
