"""Every engine does what VectorIndex says, measured by one brute-force oracle."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from mmfm.errors import DataError
from mmfm.index.engines import copy, open_engine
from mmfm.index.where import OPERATORS, Condition, read_where

ENGINES = ("flat", "faiss", "lance", "pgvector")
DIM = 16


class Oracle:
    """Rows in a dict; a search compares all of them in float64."""

    def __init__(self):
        self.rows = {}

    def add(self, ids, vectors, metadata=None):
        units = np.asarray(vectors, np.float64)
        units = units / np.linalg.norm(units, axis=1, keepdims=True)
        self.rows.update(zip(ids, zip(units, metadata or [{} for _ in ids])))

    def search(self, query, k, where=None):
        query = query / np.linalg.norm(query.astype(np.float64))
        allowed = [
            (-float(np.einsum("d,d->", vector, query)), name)
            for name, (vector, metadata) in self.rows.items()
            if all(condition.holds(metadata) for condition in read_where(where))
        ]
        return [(name, -score) for score, name in sorted(allowed)[:k]]


def agree(index, oracle, queries, k, where=None):
    """The same ids in the same order, scores to 1e-5, and the shapes that Found promises."""
    found = index.search(queries, k, where)
    columns = min(k, len(oracle.rows))
    assert found.scores.shape == (len(queries), columns) and found.scores.dtype == np.float32
    for query, ids, scores in zip(queries, found.ids, found.scores):
        best = oracle.search(query, k, where)
        assert ids == [name for name, _ in best], where
        np.testing.assert_allclose(scores[: len(best)], [score for _, score in best], atol=1e-5)
        assert np.all(scores[len(best) :] == -np.inf)


def some(count, seed=0, dim=DIM):
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def names(count, prefix="r"):
    return [f"{prefix}{number:05}" for number in range(count)]


@pytest.fixture(params=ENGINES)
def url(request, new_url):
    return new_url(request.param)


@pytest.fixture
def index(url):
    index = open_engine(url, DIM, create=True)
    yield index
    index.close()


def test_search_equals_the_oracle(index):
    oracle = Oracle()
    for turn in range(3):  # the third replaces some of the second
        ids = names(120, "ab"[turn % 2])[: 120 - 40 * (turn == 2)]
        for one in (index, oracle):
            one.add(ids, some(len(ids), turn))
    agree(index, oracle, some(5, 9), 7)
    agree(index, oracle, 1000 * some(1, 10), 1)
    gone = [*names(60, "a"), "never there"]
    assert index.remove(gone) == 60 and index.remove(gone) == 0
    for name in gone[:-1]:
        del oracle.rows[name]
    assert index.ids() == sorted(oracle.rows) and len(index) == len(oracle.rows)
    agree(index, oracle, some(300, 11), 10)
    agree(index, oracle, some(3, 12), 1000)


def test_equal_scores_are_ordered_by_id_also_at_the_edge(index):
    oracle, same = Oracle(), some(1)
    ids = [f"same{number}" for number in np.random.default_rng(0).permutation(100)]
    for start in range(0, 100, 25):
        for one in (index, oracle):
            one.add(ids[start : start + 25], np.repeat(same, 25, axis=0))
            one.add(names(10, f"x{start}"), some(10, start + 1))
        for k in (1, 10, 99, 101):
            agree(index, oracle, np.concatenate([same, some(2, 3)]), k)


NASTY = ["it's", 'a "b"', "100%", "größe 🙂", "'; DROP TABLE mmfm; --", "", "a\\b\n", "%s {table}"]


def test_vectors_and_metadata_come_back_exactly(url):
    metadata = [
        {"text": 'it\'s "quoted" \\ 50% \n 🙂', "none": None, "yes": True},
        {"text": "", "big": 2**63 - 1, "small": -(2**63), "half": 0.1, "größe": 1},
        {"large": 1e300, "tiny": 5e-324, "whole": 1e22, "zero": -0.0, "one": 1.0},
        *({"text": name} for name in NASTY[3:]),
    ]
    vectors = some(len(NASTY)) * (10.0 ** np.arange(-4, 4))[:, None]
    units = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    index = open_engine(url, DIM, create=True)
    index.add(NASTY, vectors, metadata)
    turned = [*NASTY[::-1], NASTY[0]]
    for _ in range(2):
        np.testing.assert_allclose(index.vectors(turned), [*units[::-1], units[0]], atol=1e-7)
        back = index.metadata(turned)
        assert back == metadata[::-1] + metadata[:1]
        written = [json.dumps(one, sort_keys=True) for one in (back[-4], metadata[2])]
        assert written[0] == written[1]  # 1.0 is not 1, and -0.0 not 0.0
        before = index.vectors(NASTY)
        index.close()
        index = open_engine(url)
    index.add(NASTY, before)  # unit vectors keep every bit; the metadata is replaced too
    assert np.array_equal(index.vectors(NASTY), before)
    assert index.metadata(NASTY) == [{}] * len(NASTY) and index.vectors([]).shape == (0, DIM)
    assert index.remove(NASTY[4:]) == 4 and index.ids() == sorted(NASTY[:4])
    index.close()


VALUES = [*NASTY, "cat", "Cat", "7", "true", 7, 7.5, -3, 0, True, False, 1e300]
VALUES += [2**53, 2**53 + 1, 2.0**63, 2**63 - 1, -(2**63), 2.0**70]  # doubles confuse them


def test_every_condition_holds_as_for_the_oracle(index):
    oracle = Oracle()
    metadata = [{"a": value, "b": place} for place, value in enumerate(VALUES)]
    metadata += [{"b": -1}, {}, {"a": None}, {"A": "cat", "größe": 1}, {"a": 7.0}, {"select": "x"}]
    for one in (index, oracle):
        one.add(names(len(metadata)), some(len(metadata)), metadata)
    query = some(1, 1)
    for sign in OPERATORS[:-1]:
        for value in VALUES:
            agree(index, oracle, query, 50, [Condition("a", sign, value)])
    for some_values in ([], [7], ["cat", 7, True], VALUES):
        agree(index, oracle, query, 50, {"a": some_values})
    for where in (
        {}, "a=cat", ["b>=3", "b<9", "a!=cat"], {"missing": 1}, {"missing": ("!=", 1)},
        {"größe": 1}, {"A": "cat"}, {"select": "x"}, {"b": ("<", 2**70)}, {"b": (">", -1e300)},
        {"a": 2**70}, ["a=7", "a=8"], {"a": ("in", ["it's", "🙂"])},
        {"a": ("<", "größe"), "b": ("<=", 5)},
    ):  # fmt: skip
        agree(index, oracle, some(3, 2), 4, where)


@pytest.mark.parametrize(
    "where", ["a ~ b", {"a b": 1}, {"a": ("~", 1)}, {"a": None}, 7, {"a'": "x"}]
)
def test_a_condition_that_cannot_be_read_is_refused(index, where):
    index.add(["a"], some(1))
    with pytest.raises(DataError, match="condition"):
        index.search(some(1), where=where)


def test_what_is_no_row_is_refused_and_changes_nothing(index):
    index.add(["a", "b"], some(2), [{"n": 1}, {"n": 2}])
    bad = np.full((1, DIM), np.nan, np.float32)
    for call in (
        lambda: index.add(["c", "c"], some(2)),
        lambda: index.add(["c"], some(2)),
        lambda: index.add("c", some(1)),
        lambda: index.add([7], some(1)),
        lambda: index.add(["c"], some(1, dim=DIM + 1)),
        lambda: index.add(["c"], some(1)[0]),
        lambda: index.add(["c"], bad),
        lambda: index.add(["c", "d"], np.concatenate([some(1), np.inf * some(1)])),
        lambda: index.add(["c", "d"], np.concatenate([some(1), 0 * some(1)])),
        lambda: index.add(["c"], some(1), [{"n": float("nan")}]),
        lambda: index.add(["c"], some(1), [{"n": [1]}]),
        lambda: index.add(["c"], some(1), [{1: 1}]),
        lambda: index.add(["c"], some(1), []),
        lambda: index.search(bad),
        lambda: index.search(np.zeros((2, DIM))),
        lambda: index.search(some(1, dim=DIM - 1)),
        lambda: index.search(some(1), k=0),
        lambda: index.vectors(["a", "zz"]),
        lambda: index.metadata(["it's"]),
    ):
        with pytest.raises(DataError) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert index.ids() == ["a", "b"] and index.metadata(["b", "a"]) == [{"n": 2}, {"n": 1}]


def test_an_empty_index_answers(url):
    index = open_engine(url, DIM, create=True)
    for where in (None, "a=1"):
        found = index.search(some(2), 5, where)
        assert found.ids == [[], []] and found.scores.shape == (2, 0)
    assert len(index) == 0 and index.ids() == [] and index.remove(["a"]) == 0
    index.add([], np.empty((0, DIM), np.float32))
    index.close()
    index = open_engine(url, DIM)
    assert index.dim == DIM and len(index) == 0
    index.add(["a"], some(1))
    assert index.remove(["a", "a"]) == 1 and index.search(some(1)).ids == [[]]
    index.close()


def test_rows_move_between_engines_bit_for_bit(index, new_url):
    vectors, metadata = some(50), [{"n": number, "t": f"it's {number}"} for number in range(50)]
    index.add(names(50), vectors, metadata)
    other = open_engine(new_url("flat"), DIM, create=True)
    assert copy(index, other, batch=7) == 50 == len(other)
    assert np.array_equal(index.vectors(names(50)), other.vectors(names(50)))
    index.remove(names(40))
    assert copy(other, index, batch=50) == 50 and index.ids() == names(50)
    assert np.array_equal(index.vectors(names(50)), other.vectors(names(50)))
    assert index.metadata(names(50)) == metadata
    other.close()
    narrow = open_engine(new_url("flat"), 4, create=True)
    with pytest.raises(DataError, match="length 16 for one of 4"):
        copy(index, narrow)
    narrow.close()


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
PLAIN = TEXTS | st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 2) | st.booleans()
PLAIN |= st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([-0.0, 0.5, 2.0])
FIELD = st.sampled_from(["a", "A", "größe", "_1"])
ID = st.sampled_from(["a", "b", "B", "ü", "it's", "z z"]) | TEXTS
CONDITION = st.builds(Condition, FIELD, st.sampled_from(OPERATORS[:-1]), PLAIN) | st.builds(
    Condition, FIELD, st.just("in"), st.lists(PLAIN, max_size=3)
)
POOL = some(12, 5)


class Together(RuleBasedStateMachine):
    """An engine and the oracle, told the same."""

    new_url = None  # set where it is run

    def __init__(self):
        super().__init__()
        self.url, self.oracle = self.new_url(), Oracle()
        self.index = open_engine(self.url, DIM, create=True)

    @rule(
        rows=st.dictionaries(
            ID,
            st.tuples(st.integers(0, 11), st.dictionaries(FIELD, PLAIN | st.none(), max_size=3)),
            max_size=5,
        )
    )
    def add(self, rows):
        ids, vectors = list(rows), POOL[[number for number, _ in rows.values()]].reshape(-1, DIM)
        for one in (self.index, self.oracle):
            one.add(ids, vectors, [metadata for _, metadata in rows.values()])

    @rule(ids=st.lists(ID, max_size=3))
    def remove(self, ids):
        there = {name for name in ids if self.oracle.rows.pop(name, None)}
        assert self.index.remove(ids) == len(there)

    @rule(number=st.integers(0, 11), k=st.integers(1, 8), where=st.lists(CONDITION, max_size=2))
    def search(self, number, k, where):
        agree(self.index, self.oracle, POOL[number : number + 2], k, where)

    @rule()
    def reopen(self):
        self.index.close()
        self.index = open_engine(self.url)

    @invariant()
    def holds_the_same(self):
        ids = sorted(self.oracle.rows)
        assert self.index.ids() == ids and len(self.index) == len(ids)
        assert self.index.metadata(ids) == [self.oracle.rows[name][1] for name in ids]

    def teardown(self):
        self.index.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_any_sequence_of_calls_equals_the_oracle(engine, new_url, thorough=False):
    machine = type(engine, (Together,), {"new_url": staticmethod(lambda: new_url(engine))})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=100 if thorough else 10,
            stateful_step_count=30 if thorough else 12,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_any_long_sequence_of_calls_equals_the_oracle(engine, new_url):
    test_any_sequence_of_calls_equals_the_oracle(engine, new_url, thorough=True)


ADDS = """
import itertools, sys
import numpy as np
from mmfm.index.engines import open_engine

index = open_engine(sys.argv[1])
for turn in itertools.count():
    vectors = np.random.default_rng(turn).standard_normal((500, 16)).astype(np.float32)
    ids = [f"{turn:04}-{row:03}" for row in range(500)]
    index.add(ids, vectors, [{"turn": turn, f"only{turn}": "it's"}] * 500)
    print(turn, flush=True)
"""


def add_and_kill(url, delay):
    """A process adds 500 rows a call and is killed `delay` seconds after two calls returned."""
    child = subprocess.Popen([sys.executable, "-c", ADDS, url], stdout=subprocess.PIPE, text=True)
    done = [int(child.stdout.readline()) for _ in range(2)]
    time.sleep(delay)
    child.kill()
    return done[-1] + len(child.communicate()[0].split())  # number of the last call that returned


def whole_after_kill(url, delay):
    last = add_and_kill(url, delay)
    index = open_engine(url)
    ids = index.ids()
    turns = len(ids) // 500
    assert turns > last, "what a call added was lost after it had returned"
    assert ids == [f"{turn:04}-{row:03}" for turn in range(turns) for row in range(500)]
    for turn in range(turns):
        part = ids[500 * turn : 500 * turn + 500]
        vectors = some(500, turn)
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        np.testing.assert_allclose(index.vectors(part), units, atol=1e-6)
        assert index.search(vectors[7], 1, [f"turn={turn}"]).ids == [[part[7]]]
    index.add(["after"], some(1, 10**6))
    assert index.search(some(1, 10**6), 1).ids == [["after"]]
    index.close()


def test_a_killed_process_loses_nothing_that_add_returned_for(url):
    open_engine(url, DIM, create=True).close()
    whole_after_kill(url, delay=0.003)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_process_killed_at_any_moment_leaves_whole_calls(engine, new_url):
    for delay in np.linspace(0, 0.1, 12):
        url = new_url(engine)
        open_engine(url, DIM, create=True).close()
        whole_after_kill(url, float(delay))
