"""FID and CMMD are distances: nothing from itself, the same both ways, growing with a shift."""

import itertools
import math

import numpy as np
import pytest

from mmfm.errors import InputError
from mmfm.evaluation.distances import cmmd, fid


@pytest.fixture
def features():
    random = np.random.default_rng(0)
    mix = random.normal(size=(6, 6))
    return random.normal(size=(90, 6)) @ mix + 2, random.normal(size=(70, 6)) @ mix.T + 1


@pytest.mark.parametrize("distance", [fid, cmmd])
def test_a_set_is_at_no_distance_from_itself(distance, features):
    one, other = features
    assert distance(one, one) == pytest.approx(0, abs=1e-9)
    assert distance(one, one[::-1]) == pytest.approx(0, abs=1e-9)
    assert distance(one, other) > 0.1


@pytest.mark.parametrize("distance", [fid, cmmd])
def test_both_ways_and_any_order_are_the_same(distance, features):
    one, other = features
    there = distance(one, other)
    assert distance(other, one) == pytest.approx(there, rel=1e-9)
    order = np.random.default_rng(1).permutation(len(one))
    assert distance(one[order], other) == pytest.approx(there, rel=1e-9)


@pytest.mark.parametrize("distance", [fid, cmmd])
def test_a_larger_shift_is_further(distance, features):
    one = features[0]
    away = [distance(one, one + np.array([shift, 0, 0, 0, 0, 0])) for shift in (0, 1, 2, 4)]
    assert all(near < far for near, far in itertools.pairwise(away))


def test_fid_of_a_shift_is_its_square(features):
    """Equal covariances cancel, and the means are all that is left."""
    one, shift = features[0], np.array([1.0, -2.0, 0.0, 0.5, 0.0, 0.0])
    assert fid(one, one + shift) == pytest.approx(float(shift @ shift), rel=1e-9)


def test_fid_of_a_scaling_is_known():
    """One width, deviations s and 3 s: (3 s - s)^2, and the means differ by twice the mean."""
    one = np.array([[1.0], [2.0], [4.0], [9.0]])
    spread = one.std(ddof=1)
    assert fid(one, 3 * one) == pytest.approx(4 * spread**2 + 4 * one.mean() ** 2, rel=1e-12)


def test_fid_equals_the_slow_formula(features):
    """tr (S_a S_b)^(1/2) is the sum of the singular values of A B^T, A and B centred and scaled."""
    one, other = features
    a, b = ((x - x.mean(axis=0)) / math.sqrt(len(x) - 1) for x in (one, other))
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    means = ((one.mean(axis=0) - other.mean(axis=0)) ** 2).sum()
    slow = means + (a * a).sum() + (b * b).sum() - 2 * cross
    assert fid(one, other) == pytest.approx(slow, rel=1e-9)


def test_fid_with_fewer_rows_than_columns_is_still_a_number():
    random = np.random.default_rng(2)
    few, others = random.normal(size=(5, 40)), random.normal(size=(6, 40))
    assert fid(few, few) == pytest.approx(0, abs=1e-6)
    assert math.isfinite(fid(few, others))


def test_cmmd_worked_example():
    """Two vectors at a right angle are at squared distance 2: 1000 (2 - 2 exp(-2 / 200))."""
    one, other = np.array([[3.0, 0.0]]), np.array([[0.0, 0.2]])
    assert cmmd(one, other) == pytest.approx(2000 * (1 - math.exp(-0.01)), rel=1e-12)
    assert cmmd(one, 7 * one) == pytest.approx(0, abs=1e-12)


def test_cmmd_equals_the_slow_loops(features):
    one, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in features)

    def mean(a, b):
        return np.mean([[math.exp(-((x - y) ** 2).sum() / 200) for y in b] for x in a])

    slow = 1000 * (mean(one, one) + mean(other, other) - 2 * mean(one, other))
    assert cmmd(*features) == pytest.approx(slow, rel=1e-9)


@pytest.mark.parametrize("distance", [fid, cmmd])
def test_what_is_no_set_of_features_is_refused(distance, features):
    one = features[0]
    with pytest.raises(InputError, match="wanted"):
        distance(one, one[:, :4])
    with pytest.raises(InputError, match="wanted"):
        distance(one, one[:0])
    with pytest.raises(InputError, match="not finite"):
        distance(one, np.full_like(one, np.nan))
