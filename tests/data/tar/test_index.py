"""The index finds what Python's tarfile finds, and takes no damaged tar for a shorter one."""

import contextlib
import io
import multiprocessing
import os
import random
import tarfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmfm.data.remote import ReadAhead
from mmfm.data.tar import index as tar_index
from mmfm.data.tar.file import LocalTar
from mmfm.data.tar.index_folder import cache_folder, index_header, open_index
from mmfm.data.tar.members import TarFault, walk

FIXTURES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def reader(data):
    return lambda offset, size: data[offset : offset + size]


def scan(data):
    return tar_index.scan(reader(data), len(data))


def samples(data, index=None):
    """Key -> members' data, read through an index."""
    index = index or scan(data)
    return {
        index.key(place): tar_index.read_members(reader(data), index.members(place))
        for place in range(len(index))
    }


def causes(data):
    return [fault.cause for fault in scan(data).faults]


names = st.text(
    st.characters(exclude_characters="./\0\\", exclude_categories=["Cs"]), min_size=1, max_size=120
)


@FIXTURES
@given(
    keys=st.lists(names, unique=True, max_size=8),
    folder=st.sampled_from(["", "a/", "deep/er/"]),
    format=st.sampled_from(FORMATS[1:]),
    seed=st.integers(0, 2**32),
)
def test_any_tar_reads_back_as_python_wrote_it(make_tar, keys, folder, format, seed):
    chance = random.Random(seed)
    wanted = {
        folder + key: {
            kind: chance.randbytes(chance.choice([0, 1, 511, 512, 513, 3000]))
            for kind in chance.sample(["jpg", "txt", "json"], 3)[: chance.randint(1, 3)]
        }
        for key in keys
    }
    for parts in wanted.values():
        parts.setdefault("jpg", b"\xff\xd8")
    members = [(f"{key}.{kind}", data) for key, p in wanted.items() for kind, data in p.items()]
    data = make_tar(members, format)
    assert samples(data) == wanted
    assert list(samples(data)) == list(wanted)
    assert scan(data).faults == ()


@pytest.mark.parametrize("format", FORMATS)
def test_members_are_those_that_tarfile_sees(make_tar, format):
    long = "x" * (94 if format == tarfile.USTAR_FORMAT else 300)
    data = make_tar([(f"folder/{long}.png", b"1" * 700), ("c.txt", b""), ("b.json", b"{}")], format)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        wanted = [(member.name, member.offset_data, member.size) for member in tar]
    assert [member[:3] for member in walk(reader(data), len(data))] == wanted


def test_sizes_beyond_octal_are_read(make_tar):
    """GNU writes sizes above 8 GiB in base 256; the walk jumps over the data without reading it."""
    size = 9 * 2**30
    info = tarfile.TarInfo("a.png")
    info.size = size
    header = info.tobuf(tarfile.GNU_FORMAT)
    tail = make_tar([("b.png", b"2")])

    def read(offset, count):
        if offset < 512:
            return header[offset : offset + count]
        assert offset >= 512 + size
        return tail[offset - 512 - size :][:count]

    index = tar_index.scan(read, 512 + size + len(tail))
    assert [fault.cause for fault in index.faults] == ["too-large"]
    assert [index.key(place) for place in range(len(index))] == ["b"]


def test_a_pax_size_wins_over_the_header(make_tar):
    info = tarfile.TarInfo("a.png")
    info.size = 600
    info.pax_headers = {"size": "600", "comment": "x"}
    blocks = info.tobuf(tarfile.PAX_FORMAT)
    data = blocks + b"p" * 600 + bytes(424) + make_tar([("b.png", b"2")])
    assert samples(data) == {"a": {"png": b"p" * 600}, "b": {"png": b"2"}}


def test_folders_and_leading_dots_are_passed_over(make_tar):
    folder = tarfile.TarInfo("./part/")
    folder.type = tarfile.DIRTYPE
    data = make_tar([folder, ("./part/a.png", b"1"), ("./part/.hidden", b"mac"), ("a.pth", b"7")])
    assert samples(data) == {"part/a": {"png": b"1"}}
    assert scan(data).faults == ()
    assert dict(scan(data).ignored) == {"hidden": "part/.hidden", "pth": "a.pth"}


def test_names_with_dots_fill_no_list(make_tar):
    data = make_tar([(f"12.{number}.npy", b"") for number in range(50)])
    assert scan(data).ignored == (("npy", "12.0.npy"),)


@pytest.mark.parametrize(
    ("kind", "words"),
    [(tarfile.SYMTYPE, "a symbolic link"), (tarfile.LNKTYPE, "a hard link"),
     (tarfile.GNUTYPE_SPARSE, "a sparse file"), (tarfile.FIFOTYPE, "a pipe"), (b"Z", "of type")],
)  # fmt: skip
def test_what_is_no_plain_file_is_refused_by_name(make_tar, kind, words):
    strange = tarfile.TarInfo("b.png")
    strange.type = kind
    strange.linkname = "/etc/passwd"
    data = make_tar([("a.png", b"1"), strange, ("c.png", b"3")])
    index = scan(data)
    assert [(fault.cause, fault.key) for fault in index.faults] == [("not-a-file", "b")]
    assert "'b.png'" in index.faults[0].text
    assert words in index.faults[0].text
    assert set(samples(data)) == {"a", "c"}


def test_a_link_that_claims_a_size_has_no_data(make_tar):
    link = tarfile.TarInfo("b.png")
    link.type, link.linkname, link.size = tarfile.LNKTYPE, "a.png", 700
    data = make_tar([("a.png", b"1")])[:1024] + link.tobuf() + make_tar([("c.png", b"3")])
    assert set(samples(data)) == {"a", "c"}
    assert causes(data) == ["not-a-file"]


def test_sparse_pax_headers_are_refused(make_tar):
    info = tarfile.TarInfo("a.png")
    info.pax_headers = {"GNU.sparse.major": "1"}
    assert causes(make_tar([("0.png", b"1"), info], tarfile.PAX_FORMAT)) == ["damaged"]


@pytest.mark.parametrize(
    ("order", "bad", "good"),
    [
        ("a.png b.png a.txt b.txt c.png c.txt", {"a": "interleaved", "b": "interleaved"}, "c"),
        ("a.png a.txt b.png b.txt a.json", {"a": "interleaved"}, "b"),
        ("a.png a.png b.png", {"a": "duplicate"}, "b"),
        ("a.PNG a.png b.png", {"a": "duplicate"}, "b"),
        ("a.png a.jpg b.png", {"a": "many-images"}, "b"),
        ("a.txt b.png", {"a": "no-image"}, "b"),
        ("a.npy a.png b.png", {}, "ab"),
    ],
)
def test_faults_of_samples_leave_the_others(make_tar, order, bad, good):
    data = make_tar([(name, name.encode()) for name in order.split()])
    assert {fault.key: fault.cause for fault in scan(data).faults} == bad
    assert "".join(samples(data)) == good
    assert all(fault.key in fault.text for fault in scan(data).faults)


def test_every_cut_gives_whole_samples_only_and_says_so(shard_of):
    data = shard_of("a", "b", "c")
    whole = samples(data)
    end = len(data.rstrip(b"\0")) // 512 * 512 + 512
    for size in range(0, end + 1024, 128):
        got = samples(data[:size])
        assert got.items() <= whole.items(), size
        assert list(got) == list(whole)[: len(got)]
        [cause] = causes(data[:size])
        assert cause == ("empty" if size == 0 else "truncated")
    assert len(samples(data[:end])) == 3  # only the end mark is missing
    assert causes(data[: end + 1024]) == []


def test_a_cut_sample_is_named(shard_of):
    data = shard_of("first", "second")
    at = data.index(b"second.png") + 600
    assert "inside sample 'second'" in scan(data[:at]).faults[0].text
    assert scan(data[:at]).faults[0].key == "second"


def test_a_tar_of_zeros_is_an_empty_shard_and_a_long_one_a_broken_download(shard_of):
    assert (len(scan(bytes(1024))), causes(bytes(1024))) == (0, [])
    data = shard_of("a", "b", "c")
    stopped = data[: data.index(b"c.png")] + bytes(2 * 2**20)
    assert causes(stopped[: len(stopped) // 512 * 512]) == ["truncated"]
    assert set(samples(stopped[: len(stopped) // 512 * 512])) == {"a", "b"}


def test_joined_and_compressed_tars_are_refused(shard_of):
    import gzip

    data = shard_of("a")
    assert causes(data + shard_of("b")) == ["damaged"]
    assert causes(gzip.compress(data)) == ["compressed"]
    assert "unpack" in scan(gzip.compress(data)).faults[0].text


@pytest.mark.parametrize(
    "junk", [b"x" * 511, b"<html>" + b" " * 2000, b"\xff" * 4096, b"\x80" + b"\0" * 5000]
)
def test_what_is_no_tar_is_refused(junk):
    assert len(scan(junk)) == 0
    assert causes(junk)[0] in ("truncated", "damaged")


@FIXTURES
@given(st.data())
def test_damaged_bytes_never_give_wrong_data(shard_of, data):
    """A sample that no damaged byte touches is right or reported; no key is invented."""
    whole = shard_of("a", "bb", "ccc", "dddd")
    right = samples(whole)
    members = list(walk(reader(whole), len(whole)))
    broken = bytearray(whole)
    start = data.draw(st.integers(0, len(whole) - 1))
    junk = data.draw(st.binary(min_size=1, max_size=600))
    broken[start : start + len(junk)] = junk
    broken = bytes(broken[: len(whole)])
    changed = {at for at in range(len(whole)) if broken[at] != whole[at]}
    touched = {
        member.name.split(".")[0]
        for member in members
        if any(member.offset - 512 <= at < member.offset + member.size for at in changed)
    }
    got, index = samples(broken), scan(broken)
    assert set(got) <= set(right)
    for key, parts in got.items():
        assert parts == right[key] or key in touched
    lost = set(right) - set(got)
    assert not lost or index.faults or touched >= lost


@FIXTURES
@given(st.integers(0, 511), st.integers(1, 255))
def test_any_damaged_byte_of_a_header_is_noticed(shard_of, place, change):
    whole = bytearray(shard_of("a", "b"))
    at = whole.index(b"b.png") + place
    whole[at] = (whole[at] + change) % 256
    got = samples(bytes(whole))
    same = got == samples(shard_of("a", "b"))  # bytes after a name's end mean nothing
    assert same or scan(bytes(whole)).faults
    assert set(got) <= {"a", "b"}


def test_an_index_that_no_longer_fits_its_tar_is_noticed(shard_of):
    index = scan(shard_of("aa", "bb", "cc"))
    other = shard_of("aa", "bX", "cc")
    assert tar_index.read_members(reader(other), index.members(0))
    with pytest.raises(TarFault, match="not what it was"):
        tar_index.read_members(reader(other), index.members(1))
    with pytest.raises(TarFault, match="not what it was"):
        tar_index.read_members(reader(other[:2000]), index.members(2))


def test_data_that_is_not_read_is_jumped_over(make_tar):
    data = make_tar([("a.json", b"{}"), ("a.npy", b"n" * 200_000), ("a.png", b"p" * 70)])
    index, asked = scan(data), []

    def read(offset, size):
        asked.append(size)
        return data[offset : offset + size]

    assert tar_index.read_members(read, index.members(0)) == {"png": b"p" * 70, "json": b"{}"}
    assert sum(asked) < 2000


@FIXTURES
@given(step=st.integers(1, 5000))
def test_reading_ahead_changes_nothing(shard_of, step):
    data = shard_of("a", "b", "c")
    assert list(walk(ReadAhead(reader(data), step), len(data))) == list(
        walk(reader(data), len(data))
    )


# files


def same(a, b):
    return a.kinds == b.kinds and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in tar_index.ARRAYS
    )


@pytest.mark.parametrize("keys", [(), ("a",), ("a", "long" * 20, "u")])
def test_what_is_saved_is_loaded(shard_of, tmp_path, keys):
    index = scan(shard_of(*keys))
    tar_index.save(index, tmp_path / "i", 5, "stamp")
    header, loaded = tar_index.load(tmp_path / "i")
    assert same(index, loaded)
    assert (header.size, header.stamp, header.num_samples) == (5, "stamp", len(keys))
    assert header.digest == index.digest() == loaded.digest()
    assert [path.name for path in tmp_path.iterdir()] == ["i"]


def test_faults_are_saved_too(make_tar, tmp_path):
    index = scan(make_tar([("a.png", b""), ("a.png", b""), ("b.npy", b"")])[:-5000])
    tar_index.save(index, tmp_path / "i", 5, "stamp")
    header, loaded = tar_index.load(tmp_path / "i")
    assert index.faults == loaded.faults == header.faults != ()
    assert index.ignored == loaded.ignored == header.ignored


def test_a_damaged_index_is_made_again(shard_of, tmp_path):
    shard = tmp_path / "0.tar"
    shard.write_bytes(shard_of("a", "b"))
    tar = LocalTar(str(shard))
    header, wanted = index_header(str(shard), tar, None), scan(shard.read_bytes())
    path = tmp_path / "0.tar.index"
    right = path.read_bytes()
    for at in range(0, len(right), 7):
        path.write_bytes(right[:at] + bytes([right[at] ^ 1]) + right[at + 1 :])
        found, index = open_index(str(shard), tar, None)
        assert found == header, at
        assert same(index, wanted), at
    for size in (0, 7, 40, 60, len(right) - 1):
        path.write_bytes(right[:size])
        assert len(open_index(str(shard), tar, None)[1]) == 2
        assert path.read_bytes() == right


def test_a_changed_shard_is_indexed_again(shard_of, tmp_path):
    shard = tmp_path / "0.tar"
    shard.write_bytes(shard_of("a"))
    assert index_header(str(shard), LocalTar(str(shard)), None).num_samples == 1
    shard.write_bytes(shard_of("a", "b"))
    assert index_header(str(shard), LocalTar(str(shard)), None).num_samples == 2
    before = os.stat(tmp_path / "0.tar.index").st_ino
    index_header(str(shard), LocalTar(str(shard)), None)
    assert os.stat(tmp_path / "0.tar.index").st_ino == before  # and otherwise it is kept


def test_an_index_lies_beside_its_shard_or_in_the_cache(shard_of, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shard = tmp_path / "data" / "0.tar"
    shard.parent.mkdir()
    shard.write_bytes(shard_of("a"))
    index_header(str(shard), LocalTar(str(shard)), str(tmp_path / "mine"))
    assert [path.name for path in shard.parent.iterdir()] == ["0.tar"]
    assert len(list((tmp_path / "mine").iterdir())) == 1

    def refuse(index, path, size, stamp, save=tar_index.save):
        if path.parent == shard.parent:  # even root may not write to a read-only disk
            raise OSError(30, "Read-only file system")
        save(index, path, size, stamp)

    monkeypatch.setattr(tar_index, "save", refuse)
    index_header(str(shard), LocalTar(str(shard)), None)
    assert cache_folder() == tmp_path / "cache" / "mmfm" / "index"
    assert len(list(cache_folder().iterdir())) == 1


def _index(shard, start, folder):
    start.wait()
    for _ in range(20):
        header, index = open_index(shard, LocalTar(shard), folder)
        assert len(index) == header.num_samples == 40
        for path in os.scandir(folder):
            if not path.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):  # another process was first
                    os.unlink(path)


def test_processes_that_index_at_once_all_end_well(shard_of, tmp_path):
    shard = tmp_path / "0.tar"
    shard.write_bytes(shard_of(*(f"k{n}" for n in range(40))))
    (tmp_path / "index").mkdir()
    context = multiprocessing.get_context("fork")
    start = context.Event()
    arguments = (str(shard), start, str(tmp_path / "index"))
    running = [context.Process(target=_index, args=arguments) for _ in range(4)]
    for process in running:
        process.start()
    start.set()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0] * 4
    left = [path.name for path in (tmp_path / "index").iterdir()]
    assert not [name for name in left if name.startswith(".")]
