"""Tables as people write them, and rows that cannot be used."""

import json
import os

import pytest

from mmfm.data.bad import BadSamples, SampleError
from mmfm.data.layouts import open_layout
from mmfm.errors import DataError


@pytest.fixture
def table(make):
    """table(text, name) -> the layout of that table beside 1.jpg and 2.jpg."""

    def table(text, name="captions.csv"):
        for i in (1, 2):
            make.put(make.root / f"{i}.jpg", make.encoded(i))
        path = make.root / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return open_layout(path)

    return table


def said(layout):
    return {s.meta["path"]: s.captions for s in layout.samples(BadSamples())}


TWO = {"1.jpg": ("a cat",), "2.jpg": ("two, dogs",)}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('file_name,text\n1.jpg,a cat\n2.jpg,"two, dogs"\n', "a.csv"),
        ('\ufefffile_name,text\r\n1.jpg,a cat\r\n2.jpg,"two, dogs"\r\n', "a.csv"),
        ("filepath\ttitle\n1.jpg\ta cat\n2.jpg\ttwo, dogs\n", "a.csv"),  # open_clip
        ("filepath\ttitle\n1.jpg\ta cat\n2.jpg\ttwo, dogs\n", "a.tsv"),
        ("Image;Caption\n1.jpg;a cat\n2.jpg;two, dogs\n", "a.csv"),
        ("image| comment\n1.jpg| a cat\n2.jpg| two, dogs\n", "a.csv"),
        ('1.jpg,a cat\n2.jpg,"two, dogs"\n', "a.csv"),  # no header
        ("1.jpg#0\ta cat\n2.jpg#0\ttwo, dogs\n", "Flickr8k.token.txt"),
        ('id,caption\n1,a cat\n2,"two, dogs"\n', "a.csv"),  # names without a suffix
        ('image,caption\n.\\1.jpg,a cat\n./2.jpg,"two, dogs"\n', "a.csv"),
        ('{"file": "1.jpg", "text": "a cat"}\n\n{"file":"2.jpg","text":"two, dogs"}', "a.jsonl"),
        ('[{"file":"1.jpg","text":["a cat"]}, {"file":"2.jpg","text":"two, dogs"}]', "a.json"),
    ],
)  # fmt: skip
def test_every_way_of_writing_a_table_reads_alike(table, text, name):
    assert said(table(text, name)) == TWO


@pytest.mark.parametrize(
    "cell",
    ['["a cat", "a pet", ""]', "['a cat', 'a pet']", '["a cat", "a pet", "a cat"]'],
)
def test_a_list_in_a_cell_is_several_captions(table, cell):
    quoted = cell.replace('"', '""')
    assert said(table(f'image,captions\n1.jpg,"{quoted}"\n')) == {"1.jpg": ("a cat", "a pet")}


@pytest.mark.parametrize("caption", ["[a cat]", "[1, 2]", "[", "['a' cat]"])
def test_brackets_that_are_no_list_stay_words(table, caption):
    assert said(table(f"image\tcaption\n1.jpg\t{caption}\n")) == {"1.jpg": (caption,)}


def test_a_caption_of_several_lines_and_the_line_number_after_it(table):
    layout = table('image,caption\n1.jpg,"a cat\nthat sleeps"\n3.jpg,gone\n')
    bad = BadSamples("skip", max_fraction=1)
    assert [s.captions for s in layout.samples(bad)] == [("a cat\nthat sleeps",)]
    assert "line 4 of" in bad.records[0]["message"]


def test_labels_become_words_and_captions_stay_as_they_are(table):
    assert said(table("image,breed\n1.jpg,golden_retriever\n")) == {"1.jpg": ("golden retriever",)}
    assert said(table("image,text\n1.jpg,snake_case\n")) == {"1.jpg": ("snake_case",)}


def test_a_table_without_captions_gives_pictures(table):
    assert said(table("image,year\n1.jpg,1999\n2.jpg,2001\n")) == {"1.jpg": (), "2.jpg": ()}


def test_other_columns_become_meta_and_never_hide_ours(table):
    text = "image,caption,captions,path,width,licence\n1.jpg,a cat,x,/y,huge,CC0\n"
    [sample] = table(text).samples(BadSamples())
    assert sample.captions == ("a cat",)
    assert sample.meta == {
        "column_captions": "x", "column_path": "/y", "column_width": "huge", "licence": "CC0",
        "path": "1.jpg", "width": 24, "height": 16,
    }  # fmt: skip


def test_columns_that_differ_between_the_rows_of_a_picture_become_lists(table):
    layout = table("image,caption,who,by\n1.jpg,a,x,z\n2.jpg,b,x,z\n1.jpg,c,y,z\n")
    meta = {s.meta["path"]: (s.meta["who"], s.meta["by"]) for s in layout.samples(BadSamples())}
    assert meta == {"1.jpg": (["x", "y"], "z"), "2.jpg": ("x", "z")}


def test_rows_that_only_repeat_are_kept_once_and_that_is_said(table):
    layout = table("image,caption\n1.jpg,a cat\n1.jpg,a cat\n./1.jpg,a cat\n2.jpg,dog\n")
    assert said(layout) == {"1.jpg": ("a cat",), "2.jpg": ("dog",)}
    assert any(note.startswith("2 rows repeat a caption") for note in layout.notes)


BAD = [
    ("3.jpg,gone", "missing", "line 3 of .*captions.csv names 3.jpg, which is not in"),
    ("../secret.jpg,out", "outside", r"names \.\./secret.jpg, which is outside of"),
    ("/etc/passwd,out", "outside", "names /etc/passwd, which is outside of"),
    ("http://example.org/1.jpg,web", "url", "names http://example.org/1.jpg; download"),
    (",nothing", "no-file", "names no picture"),
    ("2.jpg,", "no-caption", "has no caption for 2.jpg"),
    ("2.jpg,[]", "no-caption", "has no caption for 2.jpg"),
    ("2.jpg,two, dogs", "malformed", "3 cells for 2 columns; put texts in quotes"),
]


@pytest.mark.parametrize(("row", "cause", "words"), BAD)
def test_a_row_that_cannot_be_used_is_counted_by_its_cause(table, make, row, cause, words):
    make.put(make.root.parent / "secret.jpg", make.encoded(7))
    layout = table(f"image,caption\n1.jpg,a cat\n{row}\n")
    bad = BadSamples("skip", max_fraction=1)
    assert [s.captions for s in layout.samples(bad)] == [("a cat",)]
    assert (dict(bad.counts), bad.num_seen, layout.count()) == ({cause: 1}, 2, 2)
    with pytest.raises(SampleError, match=words):
        list(layout.samples(BadSamples("raise")))


def test_a_bad_row_of_json_lines_is_that_row_only(table):
    layout = table('{"image": "1.jpg", "text": "a cat"}\n{"image": \n[1]\n', "a.jsonl")
    bad = BadSamples("skip", max_fraction=1)
    assert len(list(layout.samples(bad))) == 1
    assert bad.counts == {"malformed": 2}


def test_half_a_surrogate_is_refused_and_not_written(table):
    layout = table(
        '{"image": "1.jpg", "text": "\\ud800"}\n{"image": "2.jpg", "text": "b"}', "a.jsonl"
    )
    bad = BadSamples("skip", max_fraction=1)
    assert [s.captions for s in layout.samples(bad)] == [("b",)]
    assert bad.counts == {"encoding": 1}


@pytest.mark.parametrize("name", ["captions.csv", "captions.jsonl", "captions.json"])
def test_latin_1_is_refused_with_file_and_line(table, name):
    with pytest.raises(DataError, match=rf"line 3 of .*{name} is not UTF-8.*iconv"):
        list(table(f"\n\n{json.dumps('x')}é".encode("latin-1"), name).entries(BadSamples()))


def test_latin_1_far_into_a_table_is_refused_too(table):
    rows = "".join(f"{i}.jpg,caption {i}\n" for i in range(5000))
    layout = table(f"image,caption\n{rows}1.jpg,".encode() + b"caf\xe9\n")
    with pytest.raises(DataError, match=r"line 5002 of .* is not UTF-8"):
        list(layout.entries(BadSamples("skip", 1.0)))


def test_names_from_another_folder_need_images(make):
    picture = make.put(make.root / "pictures" / "1.jpg", make.encoded())
    table = make.put(make.root / "tables" / "a.csv", f"image,caption\n{picture.absolute()},a cat\n")
    bad = BadSamples("skip", max_fraction=1)
    assert not list(open_layout(table).samples(bad))
    assert bad.counts == {"outside": 1}
    layout = open_layout(table, images=make.root / "pictures")
    assert [s.captions for s in layout.samples(BadSamples())] == [("a cat",)]
    assert [s.captions for s in open_layout(make.root).samples(BadSamples())] == [("a cat",)]


def test_a_name_that_fits_two_pictures_is_not_guessed(make):
    for folder in "ab":
        make.put(make.root / folder / "1.jpg", make.encoded(ord(folder)))
    table = make.put(make.root / "captions.csv", "image,caption\n1.jpg,which\na/1.jpg,this\n")
    bad = BadSamples("skip", max_fraction=1)
    assert [s.meta["path"] for s in open_layout(table).samples(bad)] == ["a/1.jpg"]
    assert bad.counts == {"missing": 1}


def test_a_file_in_the_wrong_folder_is_missing_and_not_replaced(make):
    make.put(make.root / "test" / "1.jpg", make.encoded())
    make.put(make.root / "captions.csv", "image,caption\ntrain/1.jpg,x\n")
    bad = BadSamples("skip", max_fraction=1)
    assert not list(open_layout(make.root).samples(bad))
    assert bad.counts == {"missing": 1}


def test_the_empty_txt_the_missing_one_and_the_one_in_latin_1(make):
    root = make("sidecar")
    make.put(root / "1.txt", "\n \n")
    make.put(root / "2.txt", "café".encode("latin-1"))
    os.remove(root / "3.txt")
    bad = BadSamples("skip", max_fraction=1)
    assert len(list(open_layout(root).samples(bad))) == 1
    assert bad.counts == {"no-caption": 2, "encoding": 1}
    assert "2.txt is not UTF-8" in bad.records[1]["message"]
