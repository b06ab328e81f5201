"""An order is a pure function of seed and step, and visits samples as their weights say."""

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfm.data.order import Order, ShuffledShards
from mmfm.errors import DataError


def visits(order, epochs):
    """How often each row came in all whole epochs together."""
    counts = np.zeros(len(order.weights))
    for number in range(epochs):
        np.add.at(counts, order.epoch(number), 1)
    return counts


def test_any_step_is_the_same_after_a_restart():
    weights = np.linspace(0.1, 2.0, 40)
    order = Order(weights, 8, seed=3)
    steps = [order.batch(step) for step in range(30)]
    for step in (29, 0, 17, 5):  # in any sequence, from a fresh order
        assert np.array_equal(Order(weights, 8, seed=3).batch(step), steps[step])
        assert np.array_equal(order.batch(step), steps[step])


def test_seeds_and_epochs_differ():
    order = Order(np.ones(50), 10, seed=0)
    assert not np.array_equal(order.epoch(0), order.epoch(1))
    assert not np.array_equal(order.epoch(0), Order(np.ones(50), 10, seed=1).epoch(0))


def test_weight_one_is_every_sample_once():
    order = Order(np.ones(24), 8, seed=0)
    assert order.steps_per_epoch == 3
    for epoch in range(4):
        rows = np.concatenate([order.batch(3 * epoch + step) for step in range(3)])
        assert sorted(rows) == list(range(24))


def test_whole_weights_are_exact():
    order = Order(np.array([2, 0, 1, 3]), 2, seed=0)
    assert (visits(order, 5) == np.array([10, 0, 5, 15])).all()


def test_visits_match_the_weights():
    weights = np.tile([0.0, 0.1, 0.5, 1.0, 2.3], 40)
    counts = visits(Order(weights, 16, seed=0), 100).reshape(-1, 5).mean(axis=0) / 100
    assert counts[0] == 0
    assert counts == pytest.approx([0, 0.1, 0.5, 1.0, 2.3], rel=0.05)


def test_every_epoch_is_as_long_as_the_first():
    weights = np.full(30, 0.3)
    order = Order(weights, 4, seed=0)
    assert order.epoch_size == 9
    for number in range(50):
        rows = order.epoch(number)
        assert len(rows) == 9
        assert ((rows >= 0) & (rows < 30)).all()


def test_an_epoch_in_which_no_fraction_was_drawn_still_ends():
    order = Order(np.array([0.5, 0.0, 0.5]), 1, seed=0)
    rows = np.concatenate([order.epoch(number) for number in range(40)])
    assert set(rows) == {0, 2}


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="3 samples an epoch, wanted at least 4"):
        Order(np.ones(3), 4, seed=0)


# more than one process


@pytest.mark.parametrize("world_size", [2, 3, 4, 12])
@pytest.mark.parametrize(
    "make",
    [
        lambda **ranks: Order(np.linspace(0.2, 2, 50), 12, 3, **ranks),
        lambda **ranks: ShuffledShards(
            np.array([9, 0, 7, 20, 14]), 12, 3, window_shards=2, **ranks
        ),
    ],
)
def test_ranks_together_see_the_batch_of_one_process(make, world_size):
    whole = make()
    ranks = [make(rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in range(3 * whole.steps_per_epoch):
        parts = [order.batch(step) for order in ranks]
        assert {len(part) for part in parts} == {12 // world_size}
        assert np.array_equal(np.concatenate(parts), whole.batch(step))
    for order in ranks:
        assert (order.epoch_size, order.steps_per_epoch) == (
            whole.epoch_size, whole.steps_per_epoch,
        )  # fmt: skip
        assert np.array_equal(order.epoch(1), whole.epoch(1))


@pytest.mark.parametrize("make", [lambda **k: Order(np.ones(20), 10, 0, **k),
                                  lambda **k: ShuffledShards([20], 10, 0, **k)])  # fmt: skip
@pytest.mark.parametrize(
    ("rank", "world_size", "words"),
    [(0, 3, "10 cannot be shared equally by 3 processes; take 9"), (2, 2, "rank 2 of 2"),
     (-1, 2, "rank -1"), (0, 11, "take 11")],
)  # fmt: skip
def test_ranks_that_cannot_share_a_batch_are_refused(make, rank, world_size, words):
    with pytest.raises(DataError, match=words):
        make(rank=rank, world_size=world_size)


# shards


@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any),
    window=st.integers(1, 14),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=80, deadline=None)
def test_every_row_comes_once_an_epoch_and_in_the_order_of_epoch(counts, window, batch_size, seed):
    batch_size = min(batch_size, sum(counts))
    order = ShuffledShards(counts, batch_size, seed, window_shards=window)
    steps = order.steps_per_epoch
    assert steps == sum(counts) // batch_size
    for number in (0, 1):
        rows = order.epoch(number)
        assert sorted(rows) == list(range(sum(counts)))
        batches = [order.batch(number * steps + step) for step in range(steps)]
        assert np.array_equal(np.concatenate(batches), rows[: steps * batch_size])


def test_any_step_of_shards_is_the_same_after_a_restart():
    counts = np.random.default_rng(0).integers(0, 40, 30)

    def fresh():
        return ShuffledShards(counts, 8, seed=3, window_shards=4)

    order = fresh()
    steps = [order.batch(step) for step in range(3 * order.steps_per_epoch)]
    for step in np.random.default_rng(1).permutation(len(steps))[:60]:
        assert np.array_equal(fresh().batch(step), steps[step])
        assert np.array_equal(order.batch(step), steps[step])


def test_a_window_reads_few_shards_and_mixes_them():
    counts = np.full(64, 100)
    order = ShuffledShards(counts, 100, seed=0, window_shards=8)
    shards = order.epoch(0) // 100
    for window in shards.reshape(8, 800):
        assert len(set(window)) == 8
        assert all(len(set(part)) == 8 for part in window.reshape(8, 100))  # each batch has all
    assert not np.array_equal(order.epoch(0), order.epoch(1))
    assert not np.array_equal(order.epoch(0), ShuffledShards(counts, 100, 1).epoch(0))
    assert not np.array_equal(np.sort(order.epoch(0)[:800]), np.sort(order.epoch(1)[:800]))


def test_places_are_uniform_over_epochs():
    """Every row of equal shards is as often in each twelfth of an epoch: chi-squared of 11."""
    order = ShuffledShards([8] * 6, 8, seed=5, window_shards=2)
    hits, epochs = np.zeros((48, 12)), 1500
    for number in range(epochs):
        hits[order.epoch(number), np.arange(48) // 4] += 1
    spread = ((hits - epochs / 12) ** 2 / (epochs / 12)).sum(axis=1)
    assert 9 < spread.mean() < 13


def test_one_window_over_all_shards_is_a_plain_shuffle():
    order = ShuffledShards([30, 30], 10, seed=0, window_shards=2)
    halves = [(order.epoch(number)[:30] < 30).mean() for number in range(400)]
    assert np.mean(halves) == pytest.approx(0.5, abs=0.02)


def test_half_a_billion_rows_need_little_memory():
    counts = np.full(50_000, 10_000)
    order = ShuffledShards(counts, 4096, seed=0)
    assert order.epoch_size == 500_000_000
    tracemalloc.start()
    steps = np.random.default_rng(0).integers(0, 10 * order.steps_per_epoch, 20)
    batches = {int(step): order.batch(int(step)) for step in steps}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
    for step, rows in batches.items():
        assert len(set(rows // 10_000)) <= 2 * order.window_shards  # at most two windows
        assert len(set(rows)) == 4096
        assert np.array_equal(ShuffledShards(counts, 4096, seed=0).batch(step), rows)
    assert len(order._windows) <= 2


def test_an_order_crosses_to_another_process():
    order = ShuffledShards([5, 6, 7], 3, seed=0, window_shards=2)
    order.batch(2)
    assert np.array_equal(pickle.loads(pickle.dumps(order)).batch(4), order.batch(4))


@pytest.mark.parametrize(("counts", "words"), [([], "0 samples"), ([2, 1], "3 samples an epoch")])
def test_too_few_rows_in_shards_are_refused(counts, words):
    with pytest.raises(DataError, match=words):
        ShuffledShards(counts, 4, seed=0)
    with pytest.raises(DataError, match="window_shards"):
        ShuffledShards([9], 4, seed=0, window_shards=0)
