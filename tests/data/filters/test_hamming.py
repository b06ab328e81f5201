"""Near pairs of hashes: all of them, each once, without comparing all with all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfm.data.filters import hamming
from mmfm.data.filters.hamming import HashTable, band_count, first_of_near


def crowd(seed, count, flips=12):
    """Random hashes, and copies of some with a few bits changed."""
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**64, count, dtype=np.uint64)
    copies = hashes[random.integers(0, count, count)].copy()
    for place in range(count):
        for bit in random.integers(0, 64, random.integers(0, flips)):
            copies[place] ^= np.uint64(1) << np.uint64(bit)
    both = np.concatenate([hashes, copies])
    return both[random.permutation(len(both))]


def brute(hashes, distance):
    first, second = np.triu_indices(len(hashes), 1)
    near = np.bitwise_count(hashes[first] ^ hashes[second]) <= distance
    return set(zip(first[near].tolist(), second[near].tolist()))


def found(table):
    return [pair for a, b in table.pairs() for pair in zip(a.tolist(), b.tolist())]


@pytest.mark.parametrize("distance", [0, 1, 3, 4, 6, 8, 11, 16])
def test_every_near_pair_is_found_once(distance, monkeypatch):
    monkeypatch.setattr(hamming, "BLOCK", 333)  # several blocks, and chunks within them
    monkeypatch.setattr(hamming, "CHUNK", 1000)
    hashes = crowd(distance, 700)
    pairs = found(HashTable(hashes, distance))
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == brute(hashes, distance)
    assert pairs


@pytest.mark.parametrize("bands", [2, 3, 5, 8, 16])
def test_any_number_of_bands_finds_the_same(bands, monkeypatch):
    monkeypatch.setattr(hamming, "band_count", lambda count, distance: bands)
    hashes = crowd(1, 150)
    assert set(found(HashTable(hashes, 5))) == brute(hashes, 5)


def test_a_hundred_times_as_many_hashes_get_wider_bands():
    assert band_count(10_000_000, 8) < band_count(100, 8)


@pytest.mark.parametrize("distance", [-1, 17])
def test_a_distance_without_meaning_is_refused(distance):
    with pytest.raises(ValueError, match="wanted 0 to 16"):
        HashTable(np.zeros(3, np.uint64), distance)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 10), st.integers(1, 60))
def test_what_stays_has_no_near_pair_and_what_goes_is_near_to_it(seed, distance, count):
    hashes = crowd(seed, count)
    leaders = dict(first_of_near(hashes, distance))
    stay = [row for row in range(len(hashes)) if row not in leaders]
    assert not brute(hashes[stay], distance)
    for row, of in leaders.items():
        assert of in stay and of < row
        assert np.bitwise_count(hashes[row] ^ hashes[of]) <= distance


def test_blocks_do_not_change_who_stays(monkeypatch):
    hashes = crowd(5, 500)
    whole = list(first_of_near(hashes, 6))
    monkeypatch.setattr(hamming, "BLOCK", 17)
    assert list(first_of_near(hashes, 6)) == whole
    assert whole


def test_many_equal_hashes_leave_one():
    hashes = np.full(8_000, 12345, np.uint64)  # 32 million pairs, were they all looked at
    assert list(first_of_near(hashes, 4)) == [(row, 0) for row in range(1, 8_000)]


def test_pairs_that_do_not_agree_both_stay():
    hashes = np.zeros(6, np.uint64)
    colours = np.array([0, 1, 0, 1, 2, 0])
    same = list(first_of_near(hashes, 3, lambda a, b: colours[a] == colours[b]))
    assert same == [(2, 0), (3, 1), (5, 0)]


def test_no_hashes_have_no_pairs():
    assert list(first_of_near(np.zeros(0, np.uint64), 4)) == []
