"""Tars and parquet of others: broken, cut off, without texts."""

import json

import pytest

from mmfm.data.bad import BadSamples, SampleError
from mmfm.data.layouts import open_layout
from mmfm.errors import DataError


def test_a_broken_picture_is_counted_and_the_rest_is_read(make):
    members = []
    for i, data in enumerate(
        [make.encoded(0), b"<html>", make.encoded(2)[:300], b"", make.encoded(4)]
    ):
        members += [(f"{i:09d}.jpg", data), (f"{i:09d}.txt", b"text")]
    make.tar_of(make.root / "00000.tar", members)
    bad = BadSamples("skip", max_fraction=1)
    samples = list(open_layout(make.root).samples(bad))
    assert [sample.key for sample in samples] == ["000000000", "000000004"]
    assert bad.counts == {"not-an-image": 1, "damaged": 1, "empty": 1}
    assert "00000.tar/000000001" in bad.records[0]["message"]


def test_without_check_only_what_must_be_decoded_is(make):
    members = [("0.jpg", make.encoded(0)[:700]), ("1.png", make.encoded(1, "PNG"))]
    make.tar_of(make.root / "00000.tar", members)
    assert len(list(open_layout(make.root).samples(BadSamples(), check=False))) == 2
    with pytest.raises(SampleError, match="cut short or damaged"):
        list(open_layout(make.root).samples(BadSamples(), check=True))


def test_a_tar_that_is_cut_off_gives_what_came_before_and_is_told(make):
    root = make("img2dataset")
    shard = root / "00001.tar"
    shard.write_bytes(shard.read_bytes()[:4096])
    bad = BadSamples("skip", max_fraction=1)
    layout = open_layout(root)
    samples = list(layout.samples(bad))
    assert len(samples) == layout.count()
    assert {sample.key for sample in samples} > {"000000000", "000000001", "000000002"}
    assert dict(bad.counts) == {"truncated": 1}
    assert "00001.tar" in bad.records[0]["message"]
    with pytest.raises(SampleError, match=r"00001\.tar"):
        next(open_layout(root).samples(BadSamples("raise")))


def test_img2dataset_leaves_out_the_txt_where_there_was_no_caption(make):
    members = [("a.jpg", make.encoded(0)), ("a.txt", b"text"), ("b.jpg", make.encoded(1))]
    make.tar_of(make.root / "00000.tar", members)
    found = [s.captions for s in open_layout(make.root).samples(BadSamples())]
    assert found == [("text",), ()]


def test_tars_of_equal_names_in_two_folders_do_not_mix(make):
    for folder in "ab":
        make.tar_of(make.root / folder / "0.tar", [("k.jpg", make.encoded(ord(folder)))])
    samples = list(open_layout(f"{make.root}/*/0.tar").samples(BadSamples()))
    assert len({sample.key for sample in samples}) == 2
    assert [sample.meta["path"] for sample in samples] == ["a/0.tar/k", "b/0.tar/k"]


def test_members_that_are_not_read_are_said(make):
    members = [("a.jpg", make.encoded(0)), ("a.txt", b"text"), ("a.mp3", b"sound")]
    make.tar_of(make.root / "00000.tar", members)
    assert any(".mp3" in note for note in open_layout(make.root).notes)


def test_labels_of_hugging_face_are_named_by_its_schema(make):
    import pyarrow
    import pyarrow.parquet

    features = {"label": {"names": ["golden_retriever", "cat"], "_type": "ClassLabel"}}
    table = pyarrow.table({"img": [{"bytes": make.encoded(0), "path": None}] * 2, "label": [1, 0]})
    table = table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    make.root.mkdir()
    pyarrow.parquet.write_table(table, make.root / "train-0.parquet")
    found = [s.captions for s in open_layout(make.root).samples(BadSamples())]
    assert found == [("cat",), ("golden retriever",)]


def test_a_row_of_parquet_without_a_picture_is_counted(make):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"image": [make.encoded(0), None, b"no"], "text": ["a", "b", "c"]})
    make.root.mkdir()
    pyarrow.parquet.write_table(table, make.root / "x.parquet")
    bad = BadSamples("skip", max_fraction=1)
    assert [s.captions for s in open_layout(make.root).samples(bad)] == [("a",)]
    assert bad.counts == {"no-picture": 1, "not-an-image": 1}


def test_bad_samples_side_by_side_are_a_share_of_the_whole(make):
    members = [(f"{i:03d}.jpg", b"<html>" if i < 5 else make.encoded(i)) for i in range(200)]
    make.tar_of(make.root / "00000.tar", members)
    assert len(list(open_layout(make.root).samples(BadSamples("skip", 0.025)))) == 195
    samples = open_layout(make.root).samples(BadSamples("skip", 0.02))
    with pytest.raises(DataError, match="5 of 200 samples cannot be used"):
        next(samples)
