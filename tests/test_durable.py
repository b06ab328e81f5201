"""A file is there whole or not at all, whatever happens while it is written."""

import os
import signal
import subprocess
import sys

import pytest

from mmfm import durable


class Stop(BaseException):
    """Not an Exception, as KeyboardInterrupt is not."""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "a.json"
    with durable.replacing(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new" and names(tmp_path) == ["a.json"]


def test_an_old_file_is_seen_whole_until_the_new_one_is(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with durable.replacing(path) as file:
        file.write(b"new" * 10_000)
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" * 10_000


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), Stop()])
@pytest.mark.parametrize("old", [None, b"old"])
def test_an_error_inside_leaves_what_was_there(tmp_path, old, error):
    path = tmp_path / "a"
    if old:
        path.write_bytes(old)
    with pytest.raises(type(error)), durable.replacing(path) as file:
        file.write(b"half")
        raise error
    assert (path.read_bytes() if path.exists() else None) == old
    assert names(tmp_path) == (["a"] if old else [])


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_leaves_what_was_there(tmp_path, monkeypatch, call):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="Input/output"), durable.replacing(path) as file:
            file.write(b"new")
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a"]


def test_a_full_disk_leaves_what_was_there(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "a"
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))  # bytes of one file
    try:
        with pytest.raises(OSError, match="too large"), durable.replacing(path) as file:
            file.write(bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a"]


def test_contents_are_on_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path, monkeypatch
):
    done = []
    fsync, replace = os.fsync, os.replace

    def synced(handle):
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), replace(a, b)))
    with durable.replacing(tmp_path / "a") as file:
        file.write(b"new")
    if os.path.isdir("/proc/self/fd"):
        assert done == ["file", "rename", "folder"]


@pytest.mark.parametrize("moment", ["written", "flushed", "synced", "renamed"])
def test_a_killed_process_leaves_the_old_file_or_the_new_one(tmp_path, moment):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    code = f"""
import os, signal, sys
from mmfm import durable
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
fsync, replace = os.fsync, os.replace
if {moment!r} == "flushed": os.fsync = die
if {moment!r} == "synced": os.replace = die
if {moment!r} == "renamed": os.replace = lambda a, b: (replace(a, b), die())
with durable.replacing(sys.argv[1]) as file:
    file.write(b"new" * 100_000)
    if {moment!r} == "written": die()
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)])
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == (b"new" * 100_000 if moment == "renamed" else b"old")
    left = [name for name in names(tmp_path) if name != "a"]
    assert len(left) == (0 if moment == "renamed" else 1)
    (tmp_path / ".ab.1-2").touch()  # of another file
    durable.sweep(path)
    assert names(tmp_path) == [".ab.1-2", "a"]


def test_two_writers_do_not_meet(tmp_path):
    path = tmp_path / "a"
    with durable.replacing(path) as first, durable.replacing(path) as second:
        first.write(b"1" * 1000)
        second.write(b"2" * 2000)
    assert path.read_bytes() == b"1" * 1000  # the last to end
    assert names(tmp_path) == ["a"]


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(FileNotFoundError), durable.replacing(tmp_path / "none" / "a"):
        pass
    with pytest.raises(FileNotFoundError):
        durable.sync(tmp_path / "none")
    durable.sweep(tmp_path / "none" / "a")
