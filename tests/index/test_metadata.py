"""What an index knows of its pictures, and searches that are narrowed by it."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from mmfm.errors import DataError
from mmfm.index import Index


def by_name(index):
    return {row["path"]: row for row in index.metadata}


def test_every_picture_has_its_size_and_place(embedder, gallery, tmp_path, make_noise):
    exif = Image.Exif()
    exif[0x0112] = 6
    make_noise(1).resize((30, 20)).save(gallery / "below" / "turned.jpg", exif=exif)
    make_noise(2).resize((30, 20)).save(gallery / "below" / "turned.png", exif=exif)
    data = (gallery / "below" / "turned.png").read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    late = data[:start] + data[end:-12] + data[start:end] + data[-12:]  # behind the pixels
    (gallery / "below" / "late.png").write_bytes(late)
    index = Index.build(embedder, gallery, tmp_path / "index")
    rows = by_name(index)
    red, turned = rows["red.png"], rows["below/turned.jpg"]
    for name in ("turned.png", "late.png"):
        assert (rows[f"below/{name}"]["width"], rows[f"below/{name}"]["height"]) == (20, 30)
    assert (red["width"], red["height"], red["folder"]) == (8, 8, ".")
    assert red["size"] == os.path.getsize(gallery / "red.png")
    assert (turned["width"], turned["height"], turned["folder"]) == (20, 30, "below")
    assert index.metadata == Index.open(tmp_path / "index").metadata
    hit = index.search("red", k=1)[0]
    assert hit.metadata == red


def test_the_tables_of_the_folder_are_read(embedder, gallery):
    (gallery / "captions.csv").write_text(
        "file_name,text,year\nred.png,a red square,1999\n./green.png,,\nnowhere.png,x,1\n"
    )
    lines = [
        {"file_name": "red.png", "year": 2001, "tags": ["a"], "width": 9, "good": True},
        {"file_name": "below/noise00.png", "text": "noise", "share": 0.5, "none": None},
        {"file_name": "red.png", "text": "again"},
        {"text": "of nothing"},
    ]
    (gallery / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    index = Index.build(embedder, gallery)
    rows = by_name(index)
    assert (rows["red.png"]["text"], rows["red.png"]["year"]) == ("a red square", 2001)
    assert rows["red.png"]["good"] is True and rows["red.png"]["width"] == 8
    assert rows["below/noise00.png"]["share"] == 0.5 and "text" not in rows["green.png"]
    told = " ".join(index.report["notes"])
    for words in ("1 rows name no picture", "1 rows name a picture again", "left out tags, width"):
        assert words in told
    assert [hit.metadata["path"] for hit in index.search("red", where="year>2000")] == ["red.png"]


def test_a_damaged_table_is_told_and_the_pictures_are_indexed(embedder, gallery):
    (gallery / "metadata.jsonl").write_text('{"file_name": "red.png"}\n{"file_na')
    (gallery / "captions.csv").write_bytes(b"file_name,text\nred.png,\xff\xfe\n")
    index = Index.build(embedder, gallery)
    assert len(index) == 15 and len(index.report["notes"]) == 2
    assert all("cannot be read" in note for note in index.report["notes"])


def test_new_metadata_reach_the_index_without_the_model(embedder, gallery, tmp_path):
    first = Index.build(embedder, gallery, tmp_path / "index")
    seen = embedder.seen
    given = {gallery / "red.png": {"mood": "angry"}, "below/noise00.png": {"mood": "calm"}}
    index = Index.build(embedder, gallery, tmp_path / "index", metadata=given)
    assert embedder.seen == seen and index.report["kept"] == 15
    assert np.array_equal(first.vectors, index.vectors)
    assert by_name(Index.open(tmp_path / "index"))["red.png"]["mood"] == "angry"
    assert [hit.row for hit in index.search("red", where={"mood": ["angry", "calm"]})] == [
        index.paths.index(str(gallery / "red.png")), 0,
    ]  # fmt: skip
    without = Index.build(embedder, gallery, tmp_path / "index")
    assert "mood" not in by_name(without)["red.png"]
    with pytest.raises(DataError, match="elsewhere"):
        Index.build(embedder, gallery, metadata={"elsewhere.png": {}})
    with pytest.raises(DataError, match="mood"):
        Index.build(embedder, gallery, metadata={"red.png": {"mood": ["a", "list"]}})


def test_a_filter_is_the_search_among_those_that_fit(embedder, gallery):
    index = Index.build(embedder, gallery)
    every = index.search("red blue", k=100)
    for where, fits in (
        ("folder=below", lambda row: row["folder"] == "below"),
        ({"path": ("!=", "red.png")}, lambda row: row["path"] != "red.png"),
        (["width>=8", "size<150"], lambda row: row["size"] < 150),
        ("width>8", lambda row: False),
        ("nothing=1", lambda row: False),
    ):
        wanted = [hit for hit in every if fits(hit.metadata)]
        assert index.search("red blue", k=100, where=where) == wanted
        assert index.search("red blue", k=2, where=where) == wanted[:2]
    with pytest.raises(DataError, match="NAME=VALUE"):
        index.search("red", where="width")


@pytest.mark.parametrize("engine", ["faiss", "lance"])
def test_pictures_over_another_engine_are_found_and_kept_up_to_date(
    embedder, gallery, tmp_path, new_url, engine, make_noise
):
    from mmfm.index.engines import open_engine

    url = new_url(engine)
    rows = open_engine(url, dim=32, create=True)
    plain = Index.build(embedder, gallery, tmp_path / "plain")
    index = Index.build(embedder, gallery, tmp_path / "index", engine=rows)
    assert index.paths == plain.paths and np.array_equal(index.vectors, plain.vectors)
    hits = index.search("red", 3, where="width=8")
    assert [hit.path for hit in hits] == [hit.path for hit in plain.search("red", 3)]
    make_noise(77).save(gallery / "new.png")
    (gallery / "blue.png").unlink()
    rows.close()
    with pytest.raises(DataError, match="engine="):
        Index.open(tmp_path / "index")
    opened = Index.open(tmp_path / "index", embedder, engine=open_engine(url))
    assert opened.search(gallery / "green.png", 1)[0].path == str(gallery / "green.png")
    seen = embedder.seen
    again = Index.build(embedder, gallery, tmp_path / "index", engine=opened.engine)
    assert embedder.seen == seen + 1
    assert [again.report[name] for name in ("added", "kept", "removed")] == [1, 14, 1]
    other = Index.build(type(embedder)(seed=1), gallery, tmp_path / "index", engine=again.engine)
    assert "another backbone" in other.report["rebuilt"] and len(other) == 15
