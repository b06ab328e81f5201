"""A batch depends on data, order and step alone; what cannot be used is passed over and told."""

import os
import subprocess
import sys

import numpy as np
import pytest

from mmfm.data.bad import BadSamples, SampleError
from mmfm.data.cache import PackedCache
from mmfm.data.crop import RandomCrop
from mmfm.data.loader import Loader
from mmfm.data.order import Order, ShuffledShards
from mmfm.errors import DataError
from mmfm.preprocess.scaled import decode_square

SIZE, COUNT, BATCH = 24, 30, 6
BAD = (4, 5, 17, 29)  # 4 and 5 side by side; after 29 comes row 0


@pytest.fixture
def jpeg(noise):
    return lambda number: noise(number, SIZE, "JPEG")


@pytest.fixture
def open_data(tmp_path, shards_of_tens, jpeg):
    """open_data(bad=()): a data set of 30 JPEGs in 3 shards, some of them cut."""

    def open_(bad=()):
        def members(row):
            data = jpeg(row)
            yield f"{row:03d}.jpg", data[: len(data) // 2] if row in bad else data
            yield f"{row:03d}.txt", f"number {row}".encode()

        return shards_of_tens(tmp_path, 3, members)

    return open_


def order(**share):
    return Order(np.ones(COUNT), BATCH, 0, **share)


def skip():
    return BadSamples("skip", max_fraction=0.5)


def same(a, b) -> bool:
    assert np.array_equal(a.images, b.images)
    assert (a.keys, a.captions, a.rows.tolist()) == (b.keys, b.captions, b.rows.tolist())
    return True


def test_a_batch_holds_the_decoded_samples_of_its_rows(open_data, jpeg):
    data = open_data()
    loader = Loader(data, order(), image_size=SIZE)
    for step in (0, 3, 7):
        batch = loader.batch(step)
        assert np.array_equal(batch.rows, order().batch(step))
        for row, image, key, captions in zip(batch.rows, batch.images, batch.keys, batch.captions):
            assert np.array_equal(image, decode_square(jpeg(row), SIZE))
            assert (key, captions) == (f"{row:03d}", (f"number {row}",))


@pytest.mark.parametrize("augment", [None, RandomCrop(3, scale=(0.3, 1))])
def test_ranks_together_read_what_one_rank_reads(open_data, augment):
    data = open_data(BAD)
    alone = Loader(data, order(), image_size=16, on_bad=skip(), augment=augment)
    ranks = [
        Loader(data, order(rank=rank, world_size=3), image_size=16, on_bad=skip(), augment=augment)
        for rank in range(3)
    ]
    for step in range(7):
        whole, parts = alone.batch(step), [one.batch(step) for one in ranks]
        assert all(same(whole[2 * i : 2 * i + 2], part) for i, part in enumerate(parts))


def test_any_number_of_workers_reads_the_same_from_any_step(open_data):
    data = open_data(BAD)
    settings = {"image_size": 16, "augment": RandomCrop(1)}
    shuffled = ShuffledShards(data.counts, BATCH, 5)
    here = Loader(data, shuffled, **settings, on_bad=skip())
    with Loader(data, shuffled, **settings, num_workers=2, on_bad=skip()) as there:
        for step in (0, 1, 2, 3, 9, 10, 4):  # in turn, then from elsewhere
            assert same(here.batch(step), there.batch(step))
        assert there.on_bad.records == here.on_bad.records
    data = open_data(range(COUNT))
    with (
        Loader(data, shuffled, **settings, num_workers=1) as there,
        pytest.raises(SampleError, match=r"\.tar: sample '\d+' cannot be used") as caught,
    ):
        there.batch(0)
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_the_next_good_row_takes_the_place_of_a_bad_one_which_is_told_once(open_data, jpeg):
    clean, on_bad = open_data(), skip()
    whole = Loader(clean, order(), image_size=SIZE)
    rows = {step: whole.batch(step).rows for step in range(10)}
    loader = Loader(open_data(BAD), order(), image_size=SIZE, on_bad=on_bad)
    after = {4: 6, 5: 6, 17: 18, 29: 0}
    for step in range(10):  # two epochs
        batch = loader.batch(step)
        assert batch.rows.tolist() == [after.get(row, row) for row in rows[step].tolist()]
        for row, image in zip(batch.rows, batch.images):
            assert np.array_equal(image, decode_square(jpeg(row), SIZE))
    assert sorted(entry["key"] for entry in on_bad.records) == ["004", "005", "017", "029"]
    assert sum(on_bad.counts.values()) == on_bad.num_lost == 4
    assert on_bad.num_seen == 2 * COUNT + 4
    assert all(entry["shard"].endswith(".tar") for entry in on_bad.records)


def test_a_quarantine_keeps_the_bytes_of_a_bad_picture(open_data, jpeg, tmp_path):
    on_bad = BadSamples("quarantine", 0.5, tmp_path / "kept")
    loader = Loader(open_data([7]), order(), image_size=SIZE, on_bad=on_bad)
    for step in range(5):
        loader.batch(step)
    [kept] = (tmp_path / "kept").glob("*.bin")
    assert kept.read_bytes() == jpeg(7)[: len(jpeg(7)) // 2]


def test_without_a_policy_a_bad_sample_is_raised(open_data):
    loader = Loader(open_data(BAD), order(), image_size=SIZE)
    for _ in range(2):  # and raised again when it is asked for again
        with pytest.raises(SampleError, match="cannot be used: its picture") as caught:
            for step in range(5):
                loader.batch(step)
    assert caught.value.cause == "damaged" and caught.value.key in ("004", "005", "017", "029")


def test_too_many_bad_samples_stop_the_run(open_data):
    data = open_data(range(0, COUNT, 2))
    loader = Loader(data, order(), image_size=SIZE, on_bad=BadSamples("skip", max_fraction=0.1))
    with pytest.raises(DataError, match="more than the allowed"):
        for step in range(100):
            loader.batch(step)


def test_a_data_set_without_a_good_sample_is_told_in_one_sentence(open_data):
    loader = Loader(open_data(range(COUNT)), order(), image_size=SIZE, on_bad=skip())
    with pytest.raises(DataError, match="mmfm data inspect"):
        loader.batch(0)


def test_wrong_settings_are_refused(open_data):
    with pytest.raises(DataError, match="num_workers=-1"):
        Loader(open_data(), order(), image_size=SIZE, num_workers=-1)


def test_reading_in_one_process_needs_no_torch(open_data, tmp_path):
    open_data()
    code = (
        "import sys; from mmfm.data.dataset import ShardDataset\n"
        "from mmfm.data.loader import Loader; from mmfm.data.order import ShuffledShards\n"
        "data = ShardDataset.open(sys.argv[1])\n"
        "Loader(data, ShuffledShards(data.counts, 6, 0), image_size=24).batch(3)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)


SCRIPT = """
import os, signal, sys
import numpy as np
from mmfm.data.dataset import ShardDataset
from mmfm.data.loader import Loader
from mmfm.data.order import Order

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: print("asked to stop"))
    data = ShardDataset.open(sys.argv[1], index_folder=sys.argv[1] + "/index")
    loader = Loader(data, Order(np.ones(len(data)), 6, 0), image_size=24, num_workers=1)
    loader.batch(0)
    os.killpg(0, signal.SIGTERM)
    for step in range(1, 20):
        loader.batch(step)
    print("read on")
    os.kill(loader._ahead._workers[0].pid, signal.SIGKILL)
    try:
        for step in range(20, 100):
            loader.batch(step)
    except ValueError as error:
        print(type(error).__name__, error)
    loader.batch(step)
    print("read again")
    # no close(): the end of the program must not wait for the worker
"""


def test_workers_outlive_a_group_wide_sigterm_and_their_death_is_one_sentence(open_data, tmp_path):
    open_data()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, script, tmp_path],
        start_new_session=True, capture_output=True, text=True, timeout=120, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stop, on, dead, again = done.stdout.splitlines()
    assert (stop, on, again) == ("asked to stop", "read on", "read again")
    assert dead.startswith("DataError a process that reads data died before it gave step")


@pytest.mark.parametrize("size", [(64, 64), (640, 480), (30, 200), (900, 100)])
def test_a_random_crop_lies_inside_and_keeps_its_ranges(size):
    width, height = size
    boxes = [crop(*size) for crop in RandomCrop(0, (0.4, 0.9), (0.5, 2)).batch(3, 0, 500)]
    left, top, right, bottom = np.transpose(boxes)
    across, down = right - left, bottom - top
    assert left.min() >= 0 and top.min() >= 0
    assert right.max() <= width + 1e-6 and bottom.max() <= height + 1e-6
    share = across * down / (width * height)
    assert 0.4 - 1e-6 <= share.min() < 0.45 and 0.85 < share.max() <= 0.9 + 1e-6
    ratio = across / down
    if 2 * 0.4 <= width / height <= 0.5 / 0.4:  # some crop of every ratio fits
        assert 0.5 - 1e-6 <= ratio.min() < 0.65 and 1.5 < ratio.max() <= 2 + 1e-6
    else:  # as near to it as the picture allows
        assert ratio.min() >= min(0.5, width / height * 0.4) - 1e-6


def test_a_random_crop_depends_on_seed_step_and_place_alone():
    def boxes(seed, step, first, count):
        return [crop(100, 80) for crop in RandomCrop(seed).batch(step, first, count)]

    assert boxes(1, 2, 0, 12)[5:9] == boxes(1, 2, 5, 4)
    drawn = {
        boxes(seed, step, place, 1)[0] for seed in (1, 2) for step in (1, 2) for place in (0, 1)
    }
    assert len(drawn) == 8


def test_wrong_ranges_of_a_crop_are_refused():
    for wrong in ({"scale": (0.5, 1.5)}, {"scale": (0.9, 0.5)}, {"ratio": (0, 1)}):
        with pytest.raises(DataError, match="RandomCrop got"):
            RandomCrop(0, **wrong)


def test_a_loader_tells_the_data_apart_that_it_reads(open_data, tmp_path):
    data = open_data()
    loader = Loader(data, order(), image_size=SIZE)
    assert loader.fingerprint() == data.fingerprint()
    small, large = (
        PackedCache.build(data, tmp_path / f"cache-{size}", size) for size in (16, SIZE)
    )
    prints = [Loader(one, order(), image_size=one.size).fingerprint() for one in (small, large)]
    again = PackedCache.open(tmp_path / "cache-16")
    assert prints == [again.fingerprint(), large.fingerprint()]
    assert len({*prints, data.fingerprint()}) == 3
    other = PackedCache.build(open_data([3]), tmp_path / "other", 16, on_bad=skip())
    assert other.fingerprint() != again.fingerprint()
