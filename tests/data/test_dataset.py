"""Any row at random equals the row in order; a fault is raised or counted, never passed over."""

import json
import multiprocessing
import os
import pickle
import sys
import threading
import warnings

import numpy as np
import pytest

from mmfm.data import BadSamples, Sample, SampleError, ShardDataset, read_shards, write_shards
from mmfm.data import dataset as module
from mmfm.errors import DataError

PNG = b"\x89PNG\r\n\x1a\n"


def skip(**kwargs):
    return BadSamples("skip", max_fraction=1, **kwargs)


@pytest.fixture
def folder(tmp_path):
    """Four shards of 5, 5, 5 and 2 samples, as `write_shards` makes them."""
    samples = [
        Sample(f"{n:03d}", PNG + bytes([n]) * (n * 37), (f"name {n}", "é"), {"n": n})
        for n in range(17)
    ]
    write_shards(samples, tmp_path / "s", max_count=5)
    return tmp_path / "s"


def test_rows_are_the_samples_in_order(folder):
    data = ShardDataset.open(folder)
    assert (len(data), data.counts.tolist()) == (17, [5, 5, 5, 2])
    assert [data.read(row) for row in range(17)] == list(read_shards(folder))
    assert [data.key(row) for row in range(17)] == [f"{n:03d}" for n in range(17)]
    assert [data.image_bytes(row) for row in range(17)] == [s.image for s in read_shards(folder)]
    assert [data.locate(row) for row in (0, 4, 5, 16)] == [(0, 0), (0, 4), (1, 0), (3, 1)]


def test_any_order_gives_the_same_and_numpy_rows_count(folder):
    data, wanted = ShardDataset.open(folder), list(read_shards(folder))
    for row in np.random.default_rng(0).integers(0, 17, 100):
        assert data.read(row) == wanted[row]
    for row in (-1, 17):
        with pytest.raises(IndexError):
            data.read(row)


def test_few_shards_stay_open_and_all_can_be_read(folder, monkeypatch):
    monkeypatch.setattr(module, "MAX_OPEN", 2)
    data = ShardDataset.open(folder)
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    for row in np.random.default_rng(0).integers(0, 17, 200):
        assert data.read(int(row)).meta["n"] == row
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 4


def test_threads_share_a_data_set(folder, monkeypatch):
    monkeypatch.setattr(module, "MAX_OPEN", 1)  # every other read closes a file that some still use
    data, wanted, wrong = ShardDataset.open(folder), list(read_shards(folder)), []

    def read(seed):
        for row in np.random.default_rng(seed).integers(0, 17, 150):
            if data.read(row) != wanted[row]:
                wrong.append(row)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_a_data_set(folder, method):
    data = ShardDataset.open(folder)
    data.read(3)  # opened here before it goes there
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        assert pool.map(data.read, range(17)) == list(read_shards(folder))


def test_a_pickle_is_small_and_opens_no_file(folder):
    data = ShardDataset.open(folder)
    data.read(0)
    text = pickle.dumps(data)
    assert len(text) < 2500
    again = pickle.loads(text)
    assert again.read(16) == data.read(16)
    assert again.fingerprint() == data.fingerprint()


@pytest.mark.parametrize(
    "source",
    [
        "{folder}", "{folder}/*.tar", "{folder}/0000[0-3].tar", "{folder}/{{00000..00003}}.tar",
        "file://{folder}", ["{folder}/00000.tar", "{folder}/{{00001,00002}}.tar",
        "{folder}/00003.tar"],
    ],
)  # fmt: skip
def test_a_source_can_be_named_in_many_ways(folder, source):
    names = [source] if isinstance(source, str) else source
    names = [name.format(folder=folder) for name in names]
    data = ShardDataset.open(names if len(names) > 1 else names[0])
    assert data.fingerprint() == ShardDataset.open(folder).fingerprint()
    assert len(ShardDataset.open(folder / "00003.tar")) == 2


def test_a_list_keeps_its_order(folder):
    data = ShardDataset.open([folder / "00003.tar", folder / "00000.tar"])
    assert [data.key(row) for row in range(3)] == ["015", "016", "000"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{}/nothing", "missing"), ("{}/x*.tar", "no .tar file fits"), ([], "empty list"),
        ("{}/a.tar.gz", "unpack"), ("{}", "no .tar"), ("pipe:cat x", "stream_shards"),
        ("-", "stream_shards"), ("{}/{{a.tar", "a.tar"),
    ],
)  # fmt: skip
def test_a_source_without_shards_is_refused(tmp_path, source, words):
    (tmp_path / "a.tar.gz").write_bytes(b"")
    name = source.format(tmp_path) if isinstance(source, str) else source
    with pytest.raises(DataError, match=words):
        ShardDataset.open(name)


def test_the_fingerprint_follows_the_samples(folder, tmp_path, shard_of):
    first = ShardDataset.open(folder).fingerprint()
    assert ShardDataset.open(folder).fingerprint() == first
    os.utime(folder / "00000.tar", (1, 1))
    touched = ShardDataset.open(folder)
    assert touched.fingerprint() == first  # a copy elsewhere is the same data
    whole = (folder / "00003.tar").read_bytes()
    (folder / "00003.tar").write_bytes(shard_of("a", "b"))
    changed = ShardDataset.open(folder)
    assert changed.fingerprint() != first
    assert changed.stamp(3) != touched.stamp(3)
    assert changed.stamp(2) == touched.stamp(2)
    (folder / "00003.tar").write_bytes(whole)
    assert ShardDataset.open(folder).fingerprint() == first
    (folder / "00003.tar").rename(folder / "00004.tar")
    assert ShardDataset.open(folder).fingerprint() != first


def test_workers_index_as_one_does(folder, tmp_path):
    alone = ShardDataset.open(folder, index_folder=tmp_path / "a")
    many = ShardDataset.open(folder, index_folder=tmp_path / "b", num_workers=2)
    assert alone.fingerprint() == many.fingerprint()
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()
    }


def test_a_second_opening_scans_nothing(folder, monkeypatch):
    first = ShardDataset.open(folder)
    monkeypatch.setattr("mmfm.data.tar.index.scan", None)
    assert ShardDataset.open(folder).read(4) == first.read(4)


# the layouts of others


def test_img2dataset_captions(tmp_path, make_tar):
    members = [
        ("000.jpg", b"\xff\xd8"), ("000.json", b'{"caption": " of json ", "url": "u"}'),
        ("001.jpg", b"\xff\xd8"), ("001.json", b'{"caption": "of json"}'), ("001.txt", b"of txt\n"),
        ("002.webp", b"RIFF"), ("003.GIF", b"GIF8"), ("003.txt", b" "), ("004.jpeg", b"\xff\xd8"),
        ("004.json", b'{"captions": ["a", "b"], "caption": "c"}'), ("004.txt", b"d"),
        ("005.jpg", b"\xff\xd8"), ("005.json", b'{"caption": null}'),
    ]  # fmt: skip
    (tmp_path / "0.tar").write_bytes(make_tar(members))
    data = ShardDataset.open(tmp_path)
    captions = [data.read(row).captions for row in range(len(data))]
    assert captions == [("of json",), ("of txt",), (), (), ("a", "b"), ()]
    assert data.read(0).meta["url"] == "u"


def test_the_number_of_a_class_is_kept(tmp_path, make_tar):
    members = [
        ("0.cls", b"7\n"),
        ("0.webp", b"x"),
        ("1.webp", b"y"),
        ("2.cls", b"\xff"),
        ("2.png", b""),
    ]
    (tmp_path / "0.tar").write_bytes(make_tar(members))
    data = ShardDataset.open(tmp_path)
    assert [data.read(row).meta for row in range(2)] == [{"cls": "7"}, {}]
    with pytest.raises(SampleError, match="cannot be read"):
        data.read(2)


def test_what_is_not_read_is_told_once(tmp_path, make_tar, shard_of):
    evil = [(f"{n}.{kind}", b"x") for n in range(3) for kind in ("png", "pyd", "pkl", "pth")]
    (tmp_path / "0.tar").write_bytes(make_tar(evil))
    (tmp_path / "1.tar").write_bytes(make_tar([("9.png", b""), ("9.pth", b"1"), ("9.npy", b"")]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = ShardDataset.open(tmp_path)
    [warning] = caught
    assert all(word in str(warning.message) for word in (".pyd (as 0.pyd)", ".pth", ".npy"))
    assert [data.read(row).image for row in range(4)] == [b"x", b"x", b"x", b""]


def test_only_strange_members_are_an_error(tmp_path, make_tar):
    (tmp_path / "0.tar").write_bytes(make_tar([("0.a.jpg", b"x"), ("1.a.jpg", b"x")]))
    with pytest.raises(DataError, match=r"no samples.*0\.a\.jpg"):
        ShardDataset.open(tmp_path)


# faults


def faulty(folder, make_tar, shard_of):
    """Shard 1 cut after its 3rd sample of 5, 2 with no byte, 3 missing, 4 interleaved, 5 whole."""
    keys = list("abcde")
    cut = shard_of(*keys)
    parts = {
        "0": shard_of(*keys),
        "1": cut[: cut.index(b"d.txt") + 100],
        "2": b"",
        "4": make_tar(
            [(f"{n}.{e}", b"1") for e in ("png", "txt") for n in "ab"] + [("c.png", b"")]
        ),
        "5": make_tar([("a.png", b""), ("b.png", b""), ("b.json", b"{"), ("c.txt", b"")]),
    }
    for name, data in parts.items():
        (folder / f"{name}.tar").write_bytes(data)
    return [str(folder / f"{number}.tar") for number in range(6)]


def test_raise_names_the_first_shard_and_key(tmp_path, make_tar, shard_of):
    shards = faulty(tmp_path, make_tar, shard_of)
    for first, words in [(1, r"1\.tar.*'d'"), (2, r"2\.tar.*no bytes"), (3, r"3\.tar is missing"),
                         (4, r"4\.tar.*'a'"), (5, r"5\.tar.*'c' has 0 pictures")]:  # fmt: skip
        with pytest.raises(SampleError, match=words) as caught:
            ShardDataset.open([shards[0], *shards[first:]])
        assert caught.value.shard == shards[first]


def test_skip_keeps_what_is_whole_and_counts_the_rest(tmp_path, make_tar, shard_of):
    bad = skip()
    data = ShardDataset.open(faulty(tmp_path, make_tar, shard_of), bad=bad)
    assert data.counts.tolist() == [5, 3, 0, 0, 1, 2]
    assert bad.counts == {
        "truncated": 1, "empty": 1, "missing-shard": 1, "interleaved": 2, "no-image": 1,
    }  # fmt: skip
    assert [entry["shard"][-5] + entry["key"] for entry in bad.records] == [
        "1d", "2", "3", "4a", "4b", "5c",
    ]  # fmt: skip
    read = []
    for row in range(len(data)):
        try:
            read.append(data.read(row).key)
        except SampleError as error:
            bad.record(error)
    assert "".join(read) == "abcdeabcca"
    assert bad.counts["bad-text"] == 1
    again = skip()
    assert ShardDataset.open(data.shards, bad=again).fingerprint() == data.fingerprint()
    assert again.records == bad.records[:-1]  # told again by the indexes kept on disk


def test_too_many_lost_samples_stop_the_run(tmp_path, shard_of):
    keys = [f"k{n}" for n in range(50)]
    for number in range(4):
        (tmp_path / f"{number}.tar").write_bytes(shard_of(*keys) if number else b"")
    with pytest.raises(DataError, match=r"50 of 200 samples.*empty 1.*0\.tar"):
        ShardDataset.open(tmp_path, bad=BadSamples("skip", max_fraction=0.2))
    assert len(ShardDataset.open(tmp_path, bad=BadSamples("skip", max_fraction=0.25))) == 150


def test_quarantine_lists_what_the_index_left_out(tmp_path, make_tar, shard_of):
    bad = BadSamples("quarantine", max_fraction=1, folder=tmp_path / "q")
    ShardDataset.open(faulty(tmp_path, make_tar, shard_of), bad=bad)
    lines = [json.loads(line) for line in (tmp_path / "q" / "reasons.jsonl").open()]
    assert [line["cause"] for line in lines] == [entry["cause"] for entry in bad.records]


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"captions": "x"}', b'{"captions": [1]}', b"\xff",
                                  b"[" * 100_000])  # fmt: skip
def test_bad_json_names_shard_and_key(tmp_path, make_tar, text):
    (tmp_path / "7.tar").write_bytes(make_tar([("k.png", b""), ("k.json", text)]))
    data = ShardDataset.open(tmp_path)
    with pytest.raises(SampleError, match=r"7\.tar.*'k'") as caught:
        data.read(0)
    assert (caught.value.key, caught.value.cause) == ("k", "bad-text")
    assert data.image_bytes(0) == b""


def test_a_shard_that_changes_under_way_is_noticed(tmp_path, shard_of):
    shard = tmp_path / "0.tar"
    shard.write_bytes(shard_of("a", "b", "c"))
    data = ShardDataset.open(tmp_path)
    open_before = pickle.loads(pickle.dumps(data))
    open_before.read(0)
    with open(shard, "r+b") as stream:  # in place, as a copy over it would
        stream.write(shard_of("x", "yy", "c"))
    for one in (data, open_before):
        with pytest.raises(SampleError, match=r"changed|not what it was") as caught:
            one.read(1)
        assert caught.value.cause == "changed"
    os.truncate(shard, 700)
    with pytest.raises(SampleError):
        open_before.read(2)


def test_a_shard_that_vanishes_is_named(tmp_path, shard_of):
    (tmp_path / "0.tar").write_bytes(shard_of("a"))
    data = ShardDataset.open(tmp_path)
    (tmp_path / "0.tar").unlink()
    with pytest.raises(SampleError, match=r"0\.tar is missing") as caught:
        data.read(0)
    assert caught.value.cause == "missing-shard"


def test_indexes_do_not_hinder_writing_again(folder):
    ShardDataset.open(folder)
    assert (folder / "00000.tar.index").exists()
    write_shards([Sample("new", PNG)], folder)
    assert [path.name for path in folder.iterdir()] == ["00000.tar"]
    assert ShardDataset.open(folder).read(0).key == "new"
