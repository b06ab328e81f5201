"""A stream gives what random access gives, and tells the same faults."""

import gzip
import shlex
import subprocess
import sys

import pytest

from mmfm.data import BadSamples, SampleError, ShardDataset, stream_shards
from mmfm.errors import DataError


def skip():
    return BadSamples("skip", max_fraction=1)


@pytest.fixture
def shards(tmp_path, shard_of):
    paths = [tmp_path / f"{number}.tar" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(shard_of(*(f"{number}{key}" for key in "abcd")))
    return paths


def everything(source, bad=None):
    data = ShardDataset.open(source, bad=bad)
    return [data.read(row) for row in range(len(data))]


def test_a_stream_equals_random_access(shards, tmp_path):
    wanted = everything(tmp_path)
    assert list(stream_shards(shards)) == wanted
    assert list(stream_shards(str(tmp_path / "{0..2}.tar"))) == wanted
    assert list(stream_shards([f"file://{path}" for path in shards])) == wanted


def test_zipped_shards_are_streamed(shards, tmp_path):
    zipped = tmp_path / "z.tar.gz"
    zipped.write_bytes(gzip.compress(shards[0].read_bytes()))
    assert list(stream_shards(zipped)) == everything(shards[0])
    zipped.write_bytes(zipped.read_bytes()[:-100])
    bad = skip()
    assert list(stream_shards([zipped, shards[1]], bad=bad))[-4:] == everything(shards[1])
    assert sum(bad.counts.values()) == 1


@pytest.mark.parametrize("size", [1, 3, 5, 100])
def test_a_shuffle_buffer_loses_nothing_and_repeats_by_its_seed(shards, size):
    plain = [sample.key for sample in stream_shards(shards)]
    mixed = [s.key for s in stream_shards(shards, shuffle_buffer=size, seed=1)]
    again = [s.key for s in stream_shards(shards, shuffle_buffer=size, seed=1)]
    assert sorted(mixed) == sorted(plain)
    assert mixed == again
    assert (mixed == plain) == (size == 1)


def test_standard_input_is_a_stream(shards):
    program = "from mmfm.data import stream_shards; print([s.key for s in stream_shards('-')])"
    with open(shards[1], "rb") as stream:
        done = subprocess.run(
            [sys.executable, "-c", program], stdin=stream, capture_output=True, text=True
        )
    assert done.stdout.strip() == "['1a', '1b', '1c', '1d']", done.stderr


# pipes


def cat(path):
    return f"pipe:{shlex.quote(sys.executable)} -c 'import shutil, sys; \
shutil.copyfileobj(open(sys.argv[1], \"rb\"), sys.stdout.buffer)' {shlex.quote(str(path))}"


def test_a_pipe_runs_only_when_it_is_allowed(shards, tmp_path):
    mark = tmp_path / "ran"
    evil = f"pipe:touch {shlex.quote(str(mark))}"
    with pytest.raises(DataError, match="allow_pipes"):
        next(stream_shards([shards[0], evil]))
    assert not mark.exists()
    bad = skip()
    assert list(stream_shards(evil, bad=bad, allow_pipes=True)) == []
    assert mark.exists()
    assert dict(bad.counts) == {"empty": 1}
    assert list(stream_shards(cat(shards[0]), allow_pipes=True)) == everything(shards[0])


def test_webdataset_stays_secure_while_pipes_are_allowed(shards):
    list(stream_shards(cat(shards[0]), allow_pipes=True))
    from webdataset import utils
    from webdataset.gopen import gopen

    assert utils.enforce_security
    with pytest.raises(ValueError, match="unsafe"):
        gopen("pipe:true")


def test_a_pipe_that_is_left_early_does_no_harm(shards):
    stream = stream_shards([cat(shards[0])] * 2, allow_pipes=True)
    assert next(stream).key == "0a"
    stream.close()


def test_a_command_that_fails_is_told(shards):
    bad = skip()
    list(stream_shards("pipe:exit 3", bad=bad, allow_pipes=True))
    late = f"{cat(shards[0])}; exit 3"
    kept = list(stream_shards(late, bad=bad, allow_pipes=True))
    assert kept == everything(shards[0])[: len(kept)]
    assert dict(bad.counts) == {"unreadable": 2}
    with pytest.raises(SampleError, match="exit 3"):
        list(stream_shards(late, allow_pipes=True))


# faults: as with random access


FAULTS = {
    "interleaved": "a.png b.png a.txt b.txt c.png c.txt",
    "interleaved, far apart": "a.png b.png c.png d.png e.png a.txt f.png",
    "duplicate": "a.png a.png b.png",
    "two pictures": "a.png a.jpg b.png",
    "no picture": "a.txt b.png",
    "other members": "a.npy a.png a.pth b.png b.pyd",
}


@pytest.mark.parametrize("names", FAULTS.values(), ids=FAULTS)
@pytest.mark.filterwarnings("ignore:members that are not read")
def test_faults_are_those_of_random_access(tmp_path, make_tar, names):
    (tmp_path / "0.tar").write_bytes(make_tar([(name, name.encode()) for name in names.split()]))
    ours, theirs = skip(), skip()
    right = everything(tmp_path, theirs)
    got = list(stream_shards(tmp_path / "0.tar", bad=ours))
    assert ours.counts == theirs.counts
    assert [sample for sample in got if sample in right] == right
    extra = [sample.key for sample in got if sample not in right]
    assert extra == (["a"] if "e.png" in names else [])  # given before its rest came
    if ours.counts:
        with pytest.raises(SampleError, match=r"0\.tar.*'a'"):
            list(stream_shards(tmp_path / "0.tar"))


def test_every_cut_gives_what_random_access_gives(tmp_path, shard_of):
    whole = shard_of("a", "b", "c")
    path = tmp_path / "0.tar"
    for size in range(0, len(whole.rstrip(b"\0")) + 1024, 256):
        path.write_bytes(whole[:size])
        ours, theirs = skip(), skip()
        assert list(stream_shards(path, bad=ours)) == (everything(path, theirs)), size
        assert (ours.counts, ours.records) == (theirs.counts, theirs.records), size


def test_skip_goes_on_with_the_next_shard(shards, tmp_path):
    cut = shards[0].read_bytes()
    shards[0].write_bytes(cut[: cut.index(b"0c.txt") + 10])
    shards[1].write_bytes(b"")
    bad = skip()
    stream = stream_shards([*shards, tmp_path / "9.tar", shards[2]], bad=bad)
    assert [sample.key for sample in stream] == ["0a", "0b"] + ["2a", "2b", "2c", "2d"] * 2
    assert dict(bad.counts) == {"truncated": 1, "empty": 1, "missing-shard": 1}
    with pytest.raises(DataError, match="cannot be used"):
        list(stream_shards(shards, bad=BadSamples("skip", max_fraction=0.1)))


def test_a_text_that_cannot_be_read_costs_one_sample(tmp_path, make_tar):
    members = [("a.png", b""), ("a.json", b"{"), ("b.png", b"")]
    (tmp_path / "0.tar").write_bytes(make_tar(members))
    bad = skip()
    assert [sample.key for sample in stream_shards(tmp_path / "0.tar", bad=bad)] == ["b"]
    assert dict(bad.counts) == {"bad-text": 1}
