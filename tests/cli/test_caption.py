"""`mmfm caption` as a person runs it, on the tiny model."""

import json

import numpy as np
from PIL import Image


def test_it_gives_as_many_as_asked(tiny, pictures):
    found = tiny(
        "caption", pictures, "--num-captions", 3, "--top-p", 0.9, "--temperature", 1.2,
        "--max-tokens", 8, "--seed", 1, "--json",
    ).document  # fmt: skip
    assert [len(entry["captions"]) for entry in found] == [3, 3, 3]
    assert {entry["path"] for entry in found} == {str(path) for path in pictures.iterdir()}


def test_captions_go_beside_the_pictures_and_a_second_run_goes_on(tiny, pictures):
    mine = pictures / "red.txt"
    mine.write_text("my own words\n")
    done = tiny("caption", pictures, "--write-txt", "--json")
    assert len(done.document) == 2
    assert "1 pictures have a .txt already" in done.err and "--overwrite" in done.err
    assert mine.read_text() == "my own words\n"
    for entry in done.document:
        path = pictures / entry["path"]
        assert path.with_suffix(".txt").read_text() == entry["captions"][0] + "\n"
    again = tiny("caption", pictures, "--write-txt", "--json")
    assert again.document == [] and "3 pictures" in again.err
    [over] = tiny(
        "caption", mine.with_suffix(".png"), "--write-txt", "--overwrite", "--json"
    ).document
    assert mine.read_text() == over["captions"][0] + "\n"


def test_two_pictures_never_share_a_txt(tiny, pictures):
    Image.open(pictures / "red.png").save(pictures / "red.webp")
    assert "red.txt" in tiny("caption", pictures, "--write-txt").refused()
    assert not list(pictures.glob("*.txt"))


def test_a_sheet_shows_the_pictures(tiny, pictures, tmp_path):
    done = tiny("caption", pictures, "--sheet", tmp_path / "sheet.png")
    assert done.code == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 3 * 128
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(1 << 16)}
    assert {(255, 0, 0), (0, 0, 255)} <= colours
    assert "txt" not in done.err
    assert "must end in" in tiny("caption", pictures, "--sheet", tmp_path / "sheet.doc").refused()


def test_vectors_are_captioned_as_the_pooled_port_reads_pictures(run, tiny, pictures, tmp_path):
    """An index, a .npz and a store say what the pictures say when only that port is open."""
    wanted = {
        entry["path"]: entry["captions"]
        for entry in tiny("caption", pictures, "--ports", "pooled", "--json").document
    }
    index, file, store = (tmp_path / name for name in ("index", "vectors.npz", "store"))
    tiny("index", pictures, "-o", index)
    tiny("embed", pictures, "-o", file)
    for source in (index, file):
        found = tiny("caption", source, "--json").document
        assert {entry["path"]: entry["captions"] for entry in found} == wanted
    assert run("data", "shard", pictures, "-o", tmp_path / "shards").code == 0
    assert tiny("data", "embed", tmp_path / "shards", "-o", store).code == 0
    found = tiny("caption", store, "--json").document
    assert sorted(entry["captions"] for entry in found) == sorted(wanted.values())
    assert all(len(entry["path"]) == 64 for entry in found)
    assert "want pictures" in tiny("caption", index, "--write-txt").err


def test_vectors_of_another_kind_are_refused(tiny, tmp_path):
    wrong = tmp_path / "wrong.npz"
    wrong.write_bytes(b"no vectors")
    assert "mmfm embed" in tiny("caption", wrong).refused()
    np.savez(wrong, vectors=np.ones((2, 5), np.float32), keys=np.array(["a", "b"]))
    assert "(2, 5)" in tiny("caption", wrong).refused()


def test_a_question_is_answered(tiny, pictures):
    question = "question: which one of these is it? answer:"
    found = tiny("caption", pictures, "--prompt", "is it", "--json").document
    assert all(entry["captions"][0].startswith("is it") for entry in found)
    assert "shorten the prompt" in tiny("caption", pictures, "--prompt", question).refused()
    assert json.dumps(found)
