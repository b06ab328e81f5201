"""Shards: what is written is read back, and no damaged shard passes. pytest tests/data"""

import io
import subprocess
import sys
import tarfile
import weakref
from dataclasses import replace

import pytest
from PIL import Image

from mmfm.data import Sample, read_shards, write_shards
from mmfm.data.shards import read_shard
from mmfm.errors import DataError, OutputError


def picture(color: int = 0, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (color, 0, 0)).save(stream, kind)
    return stream.getvalue()


def samples(count: int) -> list[Sample]:
    return [
        Sample(f"{i:09d}", picture(i), (f"name {i}", f"a drawing of {i} – é"), {"key": f"set:{i}"})
        for i in range(count)
    ]


def write_tar(path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_what_is_written_is_read_back(tmp_path):
    assert write_shards(iter(samples(7)), tmp_path / "train", max_count=3) == 7
    assert [p.name for p in sorted((tmp_path / "train").iterdir())] == [
        "00000.tar", "00001.tar", "00002.tar",
    ]  # fmt: skip
    read = list(read_shards(tmp_path / "train"))
    for wrote, got in zip(samples(7), read, strict=True):
        assert (got.key, got.image, got.captions) == (wrote.key, wrote.image, wrote.captions)
        assert got.meta == {**wrote.meta, "captions": list(wrote.captions)}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_jpeg_and_webp_keep_their_kind(tmp_path):
    pictures = [picture(kind="JPEG"), picture(kind="WEBP")]
    write_shards([Sample(str(i), data) for i, data in enumerate(pictures)], tmp_path / "s")
    with tarfile.open(tmp_path / "s" / "00000.tar") as tar:
        assert {"0.jpg", "1.webp"} < set(tar.getnames())
    assert [sample.image for sample in read_shards(tmp_path / "s")] == pictures


def test_equal_samples_give_equal_bytes_and_replace_old_shards(tmp_path):
    write_shards(samples(5), tmp_path / "a", max_count=2)
    write_shards(samples(9), tmp_path / "b", max_count=2)
    write_shards(samples(5), tmp_path / "b", max_count=2)
    first, second = (sorted((tmp_path / name).iterdir()) for name in "ab")
    assert [p.name for p in first] == [p.name for p in second]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_a_failing_source_leaves_the_old_shards(tmp_path):
    write_shards(samples(2), tmp_path / "s")

    def broken():
        yield Sample("a", picture())
        raise KeyError("source broke")

    with pytest.raises(KeyError):
        write_shards(broken(), tmp_path / "s")
    assert len(list(read_shards(tmp_path / "s"))) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_shard_is_written_without_holding_its_samples(tmp_path):
    """Never more than three are alive, however many go into a shard."""
    given, most = [], 0

    def source():
        nonlocal most
        for sample in samples(50):
            copy = replace(sample)
            given.append(weakref.ref(copy))
            most = max(most, sum(one() is not None for one in given))
            yield copy
            del copy

    assert write_shards(source(), tmp_path / "s", max_count=40) == 50
    assert most <= 3
    counts = [sum(1 for _ in read_shard(path)) for path in sorted((tmp_path / "s").iterdir())]
    assert counts == [40, 10]


def test_no_sample_at_all_is_one_empty_shard_and_a_full_last_one_is_the_last(tmp_path):
    assert write_shards([], tmp_path / "none", max_count=3) == 0
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["00000.tar"]
    assert list(read_shards(tmp_path / "none")) == []
    assert write_shards(samples(6), tmp_path / "six", max_count=3) == 6
    assert sorted(path.name for path in (tmp_path / "six").iterdir()) == ["00000.tar", "00001.tar"]


def test_a_full_disk_leaves_the_old_shards(tmp_path):
    resource = pytest.importorskip("resource")
    write_shards(samples(2), tmp_path / "s")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))  # bytes of one file
    try:
        with pytest.raises(OutputError, match=r"cannot write .*s/00001\.tar"):
            write_shards((Sample(f"{n}", picture() + bytes(n * 3000)) for n in range(9)),
                         tmp_path / "s", max_count=3)  # fmt: skip
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(list(read_shards(tmp_path / "s"))) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_source_that_cannot_be_read_is_not_called_a_full_disk(tmp_path):
    def broken():
        yield Sample("a", picture())
        raise FileNotFoundError("source.csv")

    with pytest.raises(FileNotFoundError, match=r"source\.csv"):
        write_shards(broken(), tmp_path / "s")


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(OutputError, match="not shards"):
        write_shards(samples(1), tmp_path)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Sample("a.b", b"\x89PNG"), "dot or slash"),
        (Sample("../a", b"\x89PNG"), "dot or slash"),
        (Sample("a", b"GIF89a"), "no PNG"),
        (Sample("000000000", b"\x89PNG"), "twice"),
    ],
)
def test_samples_that_cannot_be_stored(tmp_path, bad, message):
    with pytest.raises(DataError, match=message):
        write_shards([*samples(1), bad], tmp_path / "s")


@pytest.mark.parametrize("cut", [1, 511, 1024, 1500, 3000, 9000])
def test_a_truncated_tar_names_shard_and_key(tmp_path, cut):
    write_shards(samples(4), tmp_path)
    shard = tmp_path / "00000.tar"
    with tarfile.open(shard) as tar:  # the end that the records of a tar are filled up to
        end = max(member.offset_data + 512 * -(-member.size // 512) for member in tar) + 1024
    shard.write_bytes(shard.read_bytes()[: end - cut])
    with pytest.raises(DataError, match=r"00000\.tar.*00000000"):
        list(read_shards(tmp_path))


def test_every_cut_of_a_tar_is_noticed(tmp_path):
    write_shards(samples(2), tmp_path / "s")
    data = (tmp_path / "s" / "00000.tar").read_bytes()
    content_end = len(data.rstrip(b"\0"))
    for size in range(0, content_end, 256):
        (tmp_path / "00000.tar").write_bytes(data[:size])
        with pytest.raises(DataError, match=r"00000\.tar"):
            list(read_shards(tmp_path))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.png", "b.png", "a.txt", "b.txt"], "'a' are interleaved"),
        (["a.png", "a.txt", "b.png"], "'b' is incomplete, it has no .txt"),
        (["a.png", "a.txt", "b.txt"], "'b' has 0 pictures"),
        (["a.png", "a.jpg"], "'a' has 2 pictures"),
        (["a.png", "a.png"], "two .png"),
        (["a.png", "a.pyd"], "a.pyd"),
        (["a.png", "a.pth"], "a.pth"),
        ([".png"], r"'\.png'"),
    ],
)
def test_misbuilt_shards_are_refused(tmp_path, names, message):
    write_tar(tmp_path / "7.tar", [(name, picture()) for name in names])
    with pytest.raises(DataError, match=rf"7\.tar.*{message}|7\.tar: the members.*{message}"):
        list(read_shards(tmp_path))


def test_links_are_refused(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    with pytest.raises(DataError, match=r"a\.png"):
        list(read_shards(tmp_path))


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"captions": "one"}', b"\xff"])
def test_broken_json_is_refused(tmp_path, text):
    write_tar(tmp_path / "0.tar", [("a.png", picture()), ("a.json", text)])
    with pytest.raises(DataError, match="'a'"):
        list(read_shards(tmp_path))


def test_shards_of_other_makers(tmp_path):
    """The img2dataset layout: the caption in .txt, a .json without `captions`."""
    members = [
        ("000.jpg", picture(kind="JPEG")),
        ("000.json", b'{"url": "x"}'),
        ("000.txt", b"a\n"),
    ]
    write_tar(tmp_path / "00000.tar", members)
    (sample,) = read_shards(tmp_path)
    assert (sample.key, sample.captions, sample.meta) == ("000", ("a",), {"url": "x"})


def test_a_folder_without_shards(tmp_path):
    with pytest.raises(DataError, match=r"no \.tar"):
        list(read_shards(tmp_path))


def test_webdataset_reads_our_shards(tmp_path):
    write_shards(samples(3), tmp_path)
    program = (
        "import os; os.environ['WDS_SECURE'] = '1'\n"
        "from webdataset.tariterators import tar_file_expander\n"
        f"stream = [dict(url='s', stream=open({str(tmp_path / '00000.tar')!r}, 'rb'))]\n"
        "print(sum('fname' in member for member in tar_file_expander(stream)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "9", done.stderr


def test_importing_the_package_loads_no_webdataset():
    program = "import sys, mmfm.data; print('webdataset' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"], done.stderr
