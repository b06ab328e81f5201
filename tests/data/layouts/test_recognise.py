"""Which layout a folder is taken for; what is ambiguous is said, what is unknown is refused."""

import pytest

from mmfm.data.bad import BadSamples
from mmfm.data.layouts import KINDS, open_layout
from mmfm.errors import DataError


@pytest.mark.parametrize(
    ("maker", "name"),
    [
        ("bare", "pictures without captions"),
        ("sidecar", "pictures with .txt beside them"),
        ("classes", "sub-folders as class names"),
        ("kaggle", "captions.txt, a table of pictures and captions"),
        ("scattered", "results.csv, a table of pictures and captions"),
        ("imagefolder", "metadata.jsonl, a table of pictures and captions"),
        ("parquet_table", "captions.parquet, a table of pictures and captions"),
        ("coco", "captions.json, a table of pictures and captions"),
        ("embedded", "parquet with the pictures inside"),
        ("img2dataset", "img2dataset tars"),
        ("equal_keys", "webdataset tars"),
    ],
)
def test_each_layout_is_called_by_its_name(make, maker, name):
    layout = open_layout(make(maker))
    assert layout.name == name
    if layout.kind in KINDS:  # asked for by its word, it is found as well
        assert open_layout(make.root, kind=layout.kind).name == name


def test_a_table_goes_before_txt_and_that_is_said(make):
    root = make("imagefolder")
    make.put(root / "0.txt", "beside")
    layout = open_layout(root)
    assert next(layout.samples(BadSamples())).captions == ("one 0", "two")
    assert any("--layout txt" in note for note in layout.notes)
    beside = open_layout(root, kind="txt")
    assert next(beside.samples(BadSamples())).captions == ("beside",)


@pytest.mark.parametrize("name", ["stats.csv", "notes.tsv"])
def test_a_table_that_names_none_of_the_pictures_is_no_table_of_captions(make, name):
    root = make("sidecar")
    make.put(root / name, "id,title\n17,nothing to do with it\n")
    assert open_layout(root).name == "pictures with .txt beside them"


def test_img2dataset_files_are_taken_with_their_txt_and_json(make):
    for key in ("000000000", "000000001"):
        make.put(make.root / "00000" / f"{key}.jpg", make.encoded(int(key)))
        make.put(make.root / "00000" / f"{key}.txt", f"text {key}")
        make.put(make.root / "00000" / f"{key}.json", f'{{"key": "{key}", "url": "http://x"}}')
    make.put(make.root / "00000.csv", "key,url,caption\n000000000,http://x,text\n")
    samples = list(open_layout(make.root).samples(BadSamples()))
    assert [sample.captions for sample in samples] == [("text 000000000",), ("text 000000001",)]
    assert samples[0].meta["url"] == "http://x"


def test_pictures_and_rows_that_are_left_out_are_said(make):
    root = make("kaggle")
    make.put(root / "extra.jpg", make.encoded(9))
    layout = open_layout(root)
    assert layout.count() == 3
    assert any(note.startswith("15 rows name pictures that lie deeper") for note in layout.notes)
    assert any(note.startswith("1 pictures below") for note in layout.notes)


@pytest.mark.parametrize("folders", [("train", "test"), ("00000", "00001"), ("only",)])
def test_folders_that_name_no_classes(make, folders):
    for name in folders:
        make.put(make.root / name / "1.jpg", make.encoded(len(name)))
    assert open_layout(make.root).name == "pictures without captions"
    words = [s.captions for s in open_layout(make.root, kind="classes").samples(BadSamples())]
    assert words == [(name,) for name in sorted(folders)]


def test_a_picture_outside_of_the_classes_makes_them_folders(make):
    root = make("classes")
    make.put(root / "cover.jpg", make.encoded(8))
    assert open_layout(root).name == "pictures without captions"


@pytest.mark.parametrize("maker", ["imagefolder", "img2dataset"])
def test_the_one_sub_folder_with_data_is_taken_and_of_two_one_is_asked_for(make, maker):
    make(maker).rename(make.root.with_name("inner"))
    make.root.mkdir()
    make.root.with_name("inner").rename(make.root / "train")
    layout = open_layout(make.root)
    assert list(layout.samples(BadSamples()))
    assert any("sub-folder train" in note for note in layout.notes)
    (make.root / "test").mkdir()
    for path in (make.root / "train").iterdir():
        (make.root / "test" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(DataError, match=r"several data sets: test, train; give one.*data/test"):
        open_layout(make.root)


def test_several_tables_are_not_chosen_from(make):
    root = make("scattered")
    (root / "again.csv").write_bytes((root / "results.csv").read_bytes())
    with pytest.raises(DataError, match=r"several tables: again.csv, results.csv; give one"):
        open_layout(root)
    assert open_layout(root / "again.csv").count() == 3


def test_parquet_of_several_splits_is_asked_for_by_pattern(make):
    root = make("embedded")
    (root / "test-00000-of-00001.parquet").write_bytes(
        (root / "train-00000-of-00002.parquet").read_bytes()
    )
    with pytest.raises(DataError, match=r"several splits.*test-\*\.parquet"):
        open_layout(root)
    assert open_layout(f"{root}/train-*.parquet").count() == 4


@pytest.mark.parametrize("pattern", ["0000[01].tar", "{00000..00001}.tar", "00000.tar"])
def test_tars_by_pattern(make, pattern):
    layout = open_layout(f"{make('img2dataset')}/{pattern}")
    assert layout.count() == (3 if pattern == "00000.tar" else 6)


def test_a_table_of_urls_says_how_to_get_the_pictures(make):
    table = make.put(make.root / "laion.csv", "url,caption\nhttp://example.org/1.jpg,a cat\n")
    for path in (table, make.root):
        with pytest.raises(DataError, match=r"by URL only.*img2dataset"):
            open_layout(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.docx", b"x", r"only files of \.docx \(1\); wanted a folder of pictures"),
        ("data.csv", b"colour,shape\nred,round\n", "columns colour, shape; wanted one"),
        ("captions.csv", b"", "no rows; wanted one"),
        ("captions.jsonl", b"\xff\xfe\x00", "line 1 of .* is not UTF-8"),
        ("captions.parquet", b"PAR1 no", "cannot be read as parquet"),
        ("captions.json", b"{", "is not JSON"),
        ("captions.json", b'{"a": 1}', "no list of objects"),
    ],
)
def test_what_is_not_understood_is_told_in_one_sentence(make, name, content, words):
    make.put(make.root / name, content)
    with pytest.raises(DataError, match=words) as told:
        open_layout(make.root)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere", "nothing at"),
        ("no*where", "nothing at"),
        ("data/1.zip", "is an archive; unpack"),
        ("data/1.jpg", "is one picture; give the folder"),
        ("data/1.mp4", "no data that is understood"),
        ("empty", "holds no files"),
    ],
)
def test_paths_that_are_no_data_set(make, tmp_path, monkeypatch, path, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name in ("1.zip", "1.jpg", "1.mp4"):
        make.put(make.root / name, b"x")
    with pytest.raises(DataError, match=words):
        open_layout(path)


def test_a_layout_that_is_asked_for_and_not_there(make):
    root = make("bare")
    with pytest.raises(DataError, match=", ".join(KINDS)):
        open_layout(root, kind="folder")
    with pytest.raises(DataError, match="holds no layout `tars`"):
        open_layout(root, kind="tars")
    with pytest.raises(DataError, match="holds no layout `table`"):
        open_layout(root, kind="table")
