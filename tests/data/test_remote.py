"""Shards in a store read as they do on a disk, also when the store falters."""

import http.server
import multiprocessing
import re
import threading
from collections import Counter

import pytest

from mmfm.data import BadSamples, SampleError, ShardDataset, remote, stream_shards
from mmfm.data.remote import RemoteTar, retry
from mmfm.data.tar import index as tar_index
from mmfm.errors import DataError

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(autouse=True)
def patient(monkeypatch, tmp_path):
    """No waits to speak of, and no cache but the test's own."""
    waits = []
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return waits


@pytest.fixture
def store(shard_of):
    """memory://shards with two shards of three samples."""
    system = fsspec.filesystem("memory")
    system.pipe("/shards/0.tar", shard_of("a", "b", "c"))
    system.pipe("/shards/1.tar", shard_of("d", "e", "f"))
    system.pipe("/shards/readme.txt", b"no shard")
    yield system
    system.rm("/shards", recursive=True)


@pytest.fixture
def local(store, tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.tar").write_bytes(store.cat(f"/shards/{number}.tar"))
    return ShardDataset.open(tmp_path)


def everything(data):
    return [data.read(row) for row in range(len(data))]


@pytest.mark.parametrize(
    "source", ["memory://shards", "memory://shards/*.tar", "memory://shards/{0,1}.tar"]
)
def test_a_store_reads_as_a_disk_does(store, local, source):
    data = ShardDataset.open(source)
    assert everything(data) == everything(local)
    assert data.fingerprint() == local.fingerprint()
    assert [data.image_bytes(row) for row in range(6)] == [s.image for s in everything(local)]


def test_an_index_is_made_once_and_again_when_the_object_changes(store, shard_of, monkeypatch):
    scans, scan = Counter(), tar_index.scan

    def counted(read, size):
        scans["all"] += 1
        return scan(read, size)

    monkeypatch.setattr("mmfm.data.tar.index.scan", counted)
    for _ in range(3):
        assert len(ShardDataset.open("memory://shards")) == 6
    assert scans["all"] == 2
    store.pipe("/shards/1.tar", shard_of("x", "y", "z"))
    assert ShardDataset.open("memory://shards").read(5).key == "z"
    assert scans["all"] == 3


def test_a_missing_object_is_told_at_once(store, patient):
    bad = BadSamples("skip", max_fraction=1)
    data = ShardDataset.open("memory://shards/{0,7}.tar", bad=bad)
    assert (len(data), dict(bad.counts), patient) == (3, {"missing-shard": 1}, [])
    with pytest.raises(SampleError, match=r"7\.tar is missing"):
        ShardDataset.open("memory://shards/7.tar")
    with pytest.raises(DataError, match=r"no \.tar shards"):
        ShardDataset.open("memory://nowhere")
    with pytest.raises(DataError, match="cannot be opened"):
        ShardDataset.open("nostore://a/b.tar")


def test_a_store_is_streamed_too(store, local):
    assert list(stream_shards("memory://shards/{0,1}.tar")) == everything(local)


# retries


def failing(*errors):
    """Raises these in turn, then answers."""
    left = list(errors)

    def ask():
        if left:
            raise left.pop(0)
        return "answer"

    return ask


class Status(Exception):
    def __init__(self, status):
        self.status = status


class ClientError(Exception):
    """Of botocore's shape."""

    def __init__(self, status):
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize(
    "error",
    [TimeoutError(), ConnectionResetError(), OSError(5, "io"), EOFError(), Status(503), Status(429),
     ClientError(500)],
)  # fmt: skip
def test_what_may_pass_is_asked_again_with_growing_waits(error, patient):
    assert retry(failing(*[error] * 3), "u") == "answer"
    assert len(patient) == 3
    for number, wait in enumerate(patient):
        assert 2**number <= wait / remote.FIRST_WAIT <= 2 ** (number + 1)
    with pytest.raises(SampleError, match=f"tried {remote.MAX_TRIES} times") as caught:
        retry(failing(*[error] * remote.MAX_TRIES), "u")
    assert caught.value.cause == "unreadable"


@pytest.mark.parametrize(
    ("error", "cause"),
    [(FileNotFoundError("u"), "missing-shard"), (PermissionError(), "missing-shard"),
     (Status(404), "missing-shard"), (Status(403), "missing-shard"),
     (ClientError(403), "missing-shard"), (Status(400), "unreadable"), (KeyError(), "unreadable")],
)  # fmt: skip
def test_what_does_not_pass_is_told_at_once(error, cause, patient):
    with pytest.raises(SampleError) as caught:
        retry(failing(error), "http://u")
    assert (caught.value.cause, caught.value.shard, patient) == (cause, "http://u", [])


# a real server


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` with ranges; `plan` is what goes wrong with the next requests of data."""

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked, self.ranges = files, Counter(), True
        self.plan, self.down = [], 0  # down: requests of any kind that are refused first
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.answer(send=False)

    def do_GET(self):
        self.answer(send=True)

    def answer(self, send):
        data = self.server.files.get(self.path)
        self.server.asked[self.path] += 1
        trouble = self.server.plan.pop(0) if send and self.server.plan else None
        if self.server.down:
            self.server.down -= 1
            return self.send_error(503)
        if data is None or isinstance(trouble, int):
            return self.send_error(trouble or 404)
        if trouble == "drop":
            self.close_connection = True
            return self.connection.close()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        part = data
        if wanted and self.server.ranges:
            first, last = map(int, wanted.groups())
            part = data[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
        else:
            self.send_response(200)
        short = trouble == "short"  # a whole answer that is too small
        self.send_header("Content-Length", str(len(part) // 2 if short else len(part)))
        self.send_header("ETag", f'"{hash(data)}"')
        self.end_headers()
        if send:
            cut = trouble in ("cut", "short")  # and one that breaks off
            self.wfile.write(part[: len(part) // 2] if cut else part)
            self.close_connection = trouble == "cut"


@pytest.fixture
def server(store):
    pytest.importorskip("aiohttp")
    server = Server({f"/{n}.tar": store.cat(f"/shards/{n}.tar") for n in range(2)})
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "plan",
    [[], [503, 500, 429], ["drop", "drop"], ["cut"] * 3, ["short"] * 3, [503, "cut", "drop"]],
)
def test_a_web_server_reads_as_a_disk_does_whatever_it_does_first(server, local, plan, patient):
    server.plan = list(plan)
    data = ShardDataset.open(server.url + "/{0..1}.tar")
    server.plan = list(plan)
    assert everything(data) == everything(local)
    assert server.plan == []
    assert (len(patient) > 0) == bool(plan)


def test_a_forked_process_makes_connections_of_its_own(server, local):
    data = ShardDataset.open(server.url + "/{0..1}.tar")
    data.read(0)  # connected, by a thread that no fork takes along
    _INHERITED.append(data)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_read_inherited).get(timeout=60) == everything(local)
    _INHERITED.clear()


_INHERITED = []  # what a fork takes along without pickling it


def _read_inherited():
    return everything(_INHERITED[0])


def test_a_server_that_stays_broken_is_told(server, patient):
    data = ShardDataset.open(server.url + "/0.tar")
    data.read(0)
    server.plan = [503] * 100
    with pytest.raises(SampleError, match=r"tried 6 times.*503.*'b'") as caught:
        data.read(1)
    assert (caught.value.key, caught.value.cause) == ("b", "unreadable")
    server.plan = [403]
    before = len(patient)
    with pytest.raises(SampleError, match="not allowed"):
        data.read(1)
    assert len(patient) == before


def test_a_missing_page_is_told_at_once(server, patient):
    with pytest.raises(SampleError, match=r"9\.tar is missing") as caught:
        ShardDataset.open(server.url + "/9.tar")
    assert (caught.value.cause, patient) == ("missing-shard", [])


def test_a_server_that_is_down_for_a_moment_is_not_missing(server, local, patient):
    server.down = 3
    assert len(ShardDataset.open(server.url + "/0.tar")) == 3
    assert patient
    server.down = 1000
    with pytest.raises(SampleError, match="503") as caught:
        ShardDataset.open(server.url + "/1.tar")
    assert caught.value.cause == "unreadable"


def test_a_server_without_ranges_is_told(server):
    server.ranges = False
    with pytest.raises(SampleError, match="no ranges of bytes; use stream_shards"):
        ShardDataset.open(server.url + "/0.tar").read(0)


def test_reading_one_sample_asks_for_its_bytes_only(server):
    data = ShardDataset.open(server.url + "/1.tar")
    before = server.asked["/1.tar"]
    tar = RemoteTar(server.url + "/1.tar")
    assert tar.size == len(server.files["/1.tar"])
    assert tar.read(tar.size - 3, 100) == bytes(3)
    assert tar.read(tar.size, 1) == b""
    data.read(2)
    assert server.asked["/1.tar"] == before + 4  # two sizes, two ranges
