"""A packed cache gives what the loader gives, and is never half made. pytest tests/data"""

import io
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mmfm.data import cache_build
from mmfm.data.bad import BadSamples, SampleError
from mmfm.data.cache import PackedCache
from mmfm.data.crop import RandomCrop
from mmfm.data.dataset import ShardDataset
from mmfm.data.loader import Loader
from mmfm.data.order import Order
from mmfm.errors import DataError, OutputError

SIZE, COUNT = 16, 20
BAD = (3, 11, 19)


@pytest.fixture
def open_data(tmp_path, shards_of_tens, noise):
    """open_data(bad=(), side=16): 20 PNGs in 2 shards with odd captions, some of them cut."""

    def open_(bad=(), side=SIZE):
        def members(row):
            captions = [f"number {row}\nin \u00e9 \u0000 \u65e5", "another"][: row % 3]
            data = noise(row, side)
            yield f"{row:03d}.png", data[:99] if row in bad else data
            yield f"{row:03d}.json", json.dumps({"captions": captions}).encode()

        return shards_of_tens(tmp_path / "shards", 2, members)

    return open_


def skip():
    return BadSamples("skip", max_fraction=0.5)


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_loader_over_the_cache_gives_what_one_over_the_data_gives(open_data, tmp_path, noise):
    data, order = open_data(BAD), Order(np.ones(COUNT), 6, 0)
    cache = PackedCache.build(data, tmp_path / "cache", SIZE, on_bad=skip())
    assert len(cache) == COUNT and cache.size == SIZE
    for settings in ({"image_size": SIZE}, {"image_size": 12, "augment": RandomCrop(0, (0.2, 1))}):
        plain = Loader(data, order, **settings, on_bad=skip())
        cached = Loader(PackedCache.open(tmp_path / "cache"), order, **settings)
        again = Loader(pickle.loads(pickle.dumps(cache)), order, **settings)
        for step in range(6):
            a = plain.batch(step)
            for b in (cached.batch(step), again.batch(step)):
                assert np.array_equal(a.images, b.images) and np.array_equal(a.rows, b.rows)
                assert (a.captions, a.keys) == (b.captions, b.keys)
    decoded = [np.asarray(Image.open(io.BytesIO(noise(row, SIZE)))) for row in (5, 2)]
    assert np.array_equal(cache.images(np.array([5, 2])), decoded)


def test_a_batch_is_the_callers_own(open_data, tmp_path):
    cache = PackedCache.build(open_data(), tmp_path / "cache", SIZE)
    rows = np.arange(COUNT)
    before = cache.images(rows).copy()
    cache.batch(rows).images[:] = 0
    assert np.array_equal(cache.images(rows), before) and before.any()


def test_building_again_opens_what_is_there(open_data, tmp_path):
    data, folder = open_data(), tmp_path / "cache"
    PackedCache.build(data, folder, SIZE)
    times = [path.stat().st_mtime_ns for path in folder.iterdir()]
    PackedCache.build(data, folder, SIZE)
    assert [path.stat().st_mtime_ns for path in folder.iterdir()] == times
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "shards"]


def test_a_cache_of_other_data_or_settings_is_refused(open_data, tmp_path):
    data, folder = open_data(), tmp_path / "cache"
    PackedCache.build(data, folder, SIZE)
    with pytest.raises(DataError, match="made with size=16, wanted size=8"):
        PackedCache.build(data, folder, 8)
    with pytest.raises(DataError, match="'squash'"):
        PackedCache.build(data, folder, SIZE, mode="squash")
    with pytest.raises(DataError, match="image_size=8"):
        Loader(PackedCache.open(folder), Order(np.ones(COUNT), 4, 0), image_size=8)
    with pytest.raises(DataError, match="other data"):
        PackedCache.build(open_data(side=24), folder, SIZE)


def test_what_is_no_cache_is_neither_opened_nor_replaced(open_data, tmp_path):
    with pytest.raises(DataError, match="no packed cache"):
        PackedCache.open(tmp_path / "nowhere")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("mine")
    with pytest.raises(OutputError, match="something other"):
        PackedCache.build(open_data(), tmp_path / "notes", SIZE)
    assert contents(tmp_path / "notes") == {"diary.txt": b"mine"}


@pytest.mark.parametrize("name", ["pixels.bin", "texts.jsonl", "starts.npy", "cache.json"])
def test_a_cut_file_is_told(open_data, tmp_path, name):
    folder = tmp_path / "cache"
    PackedCache.build(open_data(), folder, SIZE)
    os.truncate(folder / name, (folder / name).stat().st_size - 7)
    with pytest.raises(DataError, match="damaged"):
        PackedCache.open(folder)


def test_a_bad_sample_stops_the_build_unless_it_may_be_passed_over(open_data, tmp_path):
    data, folder = open_data(BAD), tmp_path / "cache"
    with pytest.raises(SampleError, match="sample '003'"):
        PackedCache.build(data, folder, SIZE)
    with pytest.raises(DataError, match="more than the allowed"):
        PackedCache.build(data, folder, SIZE, on_bad=BadSamples("skip", max_fraction=0.01))
    assert not folder.exists()
    on_bad = skip()
    cache = PackedCache.build(data, folder, SIZE, on_bad=on_bad)
    assert [entry["key"] for entry in on_bad.records] == ["003", "011", "019"]
    assert cache.batch(np.array([3, 19])).rows.tolist() == [4, 0]


SCRIPT = """
import os, signal, sys
from pathlib import Path
from mmfm.data import cache_build
from mmfm.data.bad import BadSamples
from mmfm.data.cache import PackedCache
from mmfm.data.dataset import ShardDataset

source, folder, kill_at = sys.argv[1], sys.argv[2], int(sys.argv[3])
fsync, calls = os.fsync, 0

def fsync_or_die(handle):
    global calls
    calls += 1
    if calls == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(handle)

data = ShardDataset.open(source)
os.fsync = fsync_or_die
cache_build.CHUNK_BYTES = 3 * 16 * 16 * 3  # three rows
on_bad = BadSamples("skip", max_fraction=0.5)
PackedCache.build(data, folder, 16, on_bad=on_bad)
print(calls, sorted(entry["key"] for entry in on_bad.records))
"""


def start(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        **options,
    )  # fmt: skip


def test_a_build_killed_at_any_sync_goes_on_to_the_same_cache(open_data, tmp_path):
    open_data(BAD)
    whole = start(tmp_path / "shards", tmp_path / "whole", 0)
    printed, errors = whole.communicate(timeout=60)
    assert whole.returncode == 0, errors
    syncs = int(printed.split()[0])
    kills = sorted({1, 2, 3, 8, syncs - 2, syncs - 1, syncs})
    runs = {at: start(tmp_path / "shards", tmp_path / f"at{at}", at) for at in kills}
    for run in runs.values():
        run.communicate(timeout=60)
        assert run.returncode == -9
    runs = {at: start(tmp_path / "shards", tmp_path / f"at{at}", 0) for at in kills}
    for at, run in runs.items():
        again, errors = run.communicate(timeout=60)
        assert run.returncode == 0, errors
        if at < syncs:  # at the last one the cache has its name and is only opened
            assert again.split(" ", 1)[1] == printed.split(" ", 1)[1]  # no bad one was forgotten
        assert contents(tmp_path / f"at{at}") == contents(tmp_path / "whole")
        if at >= syncs - 2:
            assert int(again.split()[0]) < 6  # what was done was not done again


def test_several_processes_may_build_the_same_cache_at_once(open_data, tmp_path):
    open_data()
    runs = [start(tmp_path / "shards", tmp_path / "cache", 0) for _ in range(3)]
    for run in runs:
        _, errors = run.communicate(timeout=60)
        assert run.returncode == 0, errors
    assert len(PackedCache.open(tmp_path / "cache")) == COUNT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "shards"]


def test_a_full_disk_is_told_in_one_sentence_and_what_is_done_is_kept(open_data, tmp_path):
    resource = pytest.importorskip("resource")
    open_data()

    def limit():  # no file may grow beyond two chunks
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    run = start(tmp_path / "shards", tmp_path / "cache", 0, preexec_fn=limit)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "OutputError: cannot write the cache" in errors.splitlines()[-1]
    progress = tmp_path / ".cache.unfinished" / cache_build.PROGRESS
    assert json.loads(progress.read_bytes())["done"] == 6
    cache = PackedCache.build(ShardDataset.open(tmp_path / "shards"), tmp_path / "cache", SIZE)
    assert len(cache) == COUNT
