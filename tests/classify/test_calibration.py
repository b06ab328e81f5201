"""One temperature by likelihood: it never hurts where it was fitted, nor changes an answer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfm.classify.calibration import (
    Calibration,
    expected_calibration_error,
    negative_log_likelihood,
    probabilities,
)
from mmfm.errors import InputError


def example(seed, count=200, labels=5, sharp=4.0):
    """Logits whose rows are right about as often as softmax(logits / sharp) says."""
    rng = np.random.default_rng(seed)
    logits = sharp * rng.normal(size=(count, labels))
    chances = probabilities(logits / sharp, "softmax")
    targets = np.array([rng.choice(labels, p=row) for row in chances])
    return logits.astype(np.float32), targets


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), loss=st.sampled_from(["softmax", "sigmoid"]))
def test_it_never_raises_the_cost_and_never_changes_the_best_label(seed, loss):
    logits, targets = example(seed, sharp=1 + seed % 7)
    fitted = Calibration.fit(logits, targets, loss)
    after = fitted(logits)
    assert fitted.temperature > 0
    assert (after.argmax(axis=1) == logits.argmax(axis=1)).all()
    before = negative_log_likelihood(logits, targets, loss)
    assert negative_log_likelihood(after, targets, loss) <= before + 1e-5


@pytest.mark.parametrize("sharp", [0.3, 1.0, 8.0])
def test_the_temperature_that_made_the_data_is_found(sharp):
    logits, targets = example(0, count=20_000, sharp=sharp)
    assert Calibration.fit(logits, targets).temperature == pytest.approx(sharp, rel=0.05)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_no_other_temperature_or_bias_is_more_likely(loss):
    logits, targets = example(3)
    fitted = Calibration.fit(logits, targets, loss)
    best = negative_log_likelihood(fitted(logits.astype(np.float64)), targets, loss)
    for factor in (0.8, 0.99, 1.01, 1.3):
        other = Calibration(fitted.temperature * factor, fitted.bias)
        assert negative_log_likelihood(other(logits.astype(float)), targets, loss) > best
    if loss == "sigmoid":
        for shift in (-0.1, 0.1):
            other = Calibration(fitted.temperature, fitted.bias + shift)
            assert negative_log_likelihood(other(logits.astype(float)), targets, loss) > best


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_second_fit_changes_nothing(loss):
    logits, targets = example(4)
    once = Calibration.fit(logits, targets, loss)(logits.astype(np.float64))
    again = Calibration.fit(once, targets, loss)
    assert again.temperature == pytest.approx(1, abs=1e-4)
    assert again.bias == pytest.approx(0, abs=1e-4)


def test_logits_that_are_always_right_end_at_a_bound_and_not_at_infinity():
    targets = np.array([0, 1, 2])
    fitted = Calibration.fit(10 * np.eye(3), targets)
    assert 0 < fitted.temperature < 0.2
    assert np.isfinite(fitted(10 * np.eye(3))).all()


def test_true_chances_have_no_error_and_boasts_have_all_of_it():
    rng = np.random.default_rng(0)
    chances = rng.dirichlet(np.ones(4), size=40_000)
    targets = np.array([rng.choice(4, p=row) for row in chances])
    assert expected_calibration_error(chances, targets) < 0.015
    boasts = np.tile([0.9, 0.1], (100, 1))
    assert expected_calibration_error(boasts, np.ones(100, int)) == pytest.approx(0.9)
    half = np.repeat([0, 1], 50)
    assert expected_calibration_error(boasts, half) == pytest.approx(0.4)


def test_probabilities_are_finite_for_any_logits():
    extreme = np.array([[1e4, -1e4, 0.0]], np.float32)
    assert np.allclose(probabilities(extreme, "softmax"), [[1, 0, 0]])
    assert np.allclose(probabilities(extreme, "sigmoid"), [[1, 0, 0.5]])


@pytest.mark.parametrize(
    ("logits", "targets"),
    [
        (np.zeros((2, 3)), np.array([0])),
        (np.zeros((0, 3)), np.array([], int)),
        (np.zeros((1, 3)), np.array([3])),
        (np.full((1, 3), np.nan), np.array([0])),
    ],
)
def test_what_does_not_fit_is_refused(logits, targets):
    with pytest.raises(InputError):
        Calibration.fit(logits, targets)
    with pytest.raises(InputError, match="softmax or sigmoid"):
        Calibration.fit(np.zeros((1, 2)), np.array([0]), "hinge")
