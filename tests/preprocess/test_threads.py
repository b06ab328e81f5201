"""What is made in threads comes in order, and no more of it waits than is allowed."""

import random
import time

import pytest

from mmfm.preprocess.threads import AHEAD, map_in_order


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_results_come_in_the_order_of_their_things(workers):
    def slow(number):
        time.sleep(random.random() / 1000)
        return number**2

    assert list(map_in_order(slow, range(50), workers)) == [(i, i**2) for i in range(50)]


@pytest.mark.parametrize("workers", [1, 3])
def test_few_things_are_taken_ahead_of_what_was_given(workers):
    taken = []
    pairs = map_in_order(lambda thing: thing, (taken.append(i) or i for i in range(100)), workers)
    for given, _ in enumerate(pairs):
        assert len(taken) <= given + AHEAD * workers


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("at_source", [True, False])
def test_an_error_comes_after_what_was_before_it(workers, at_source):
    def things():
        for i in range(40):
            if i == 30 and at_source:
                raise KeyError(i)
            yield i

    def make(thing):
        if thing == 30:
            raise KeyError(thing)
        return thing

    came = []
    with pytest.raises(KeyError):
        for thing, _ in map_in_order(make, things(), workers):
            came.append(thing)
    assert came == list(range(30))


def test_a_reader_that_stops_early_stops_the_threads():
    pairs = map_in_order(lambda thing: thing, iter(int, 1), 3)  # endless
    assert [next(pairs) for _ in range(3)] == [(0, 0)] * 3
    pairs.close()
