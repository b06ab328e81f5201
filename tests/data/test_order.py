"""An order is a pure function of seed and step, and visits samples as their weights say."""

import numpy as np
import pytest

from mmfm.data.order import Order


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
