"""Conditions on metadata: read from words and mappings, tried on rows, the same in columns."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfm.errors import DataError
from mmfm.index.blobs import Blobs
from mmfm.index.columns import Columns
from mmfm.index.where import OPERATORS, Condition, read_value, read_where

PLAIN = st.one_of(
    st.booleans(), st.integers(-3, 3), st.integers(),
    st.sampled_from(["", "a", "b", "1", "é", "\x00"]),
    st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=3),
)  # fmt: skip
ROWS = st.lists(st.dictionaries(st.sampled_from("xyz"), PLAIN | st.none(), max_size=3), max_size=12)


@st.composite
def conditions(draw):
    sign = draw(st.sampled_from(OPERATORS))
    value = draw(st.lists(PLAIN, max_size=3)) if sign == "in" else draw(PLAIN)
    return Condition(draw(st.sampled_from("xyzw")), sign, value)


@pytest.mark.parametrize(
    ("words", "condition"),
    [
        ("label=cat", ("label", "=", "cat")),
        (" width >= 300 ", ("width", ">=", 300)),
        ("width<2.5", ("width", "<", 2.5)),
        ("flag=true", ("flag", "=", True)),
        ('year="2020"', ("year", "=", "2020")),
        ("code=007", ("code", "=", "007")),
        ("label!=a=b", ("label", "!=", "a=b")),
        ("label=NaN", ("label", "=", "NaN")),
        ("label=1e999", ("label", "=", "1e999")),
        ("label=[1]", ("label", "=", "[1]")),
        ("label=", ("label", "=", "")),
    ],
)
def test_words_are_read_as_json_where_they_are_plain_and_as_text_elsewhere(words, condition):
    assert read_where(words) == (condition,) == read_where([words])


def test_mappings_words_and_conditions_say_the_same():
    wanted = (Condition("a", "=", 1), Condition("b", ">=", 2), Condition("c", "in", ["x", "y"]))
    assert read_where({"a": 1, "b": (">=", 2), "c": ("in", ("x", "y"))}) == wanted
    assert read_where({"a": 1, "b": (">=", 2), "c": ["x", "y"]}) == wanted
    assert read_where(["a=1", "b>=2", wanted[2]]) == wanted
    assert read_where(wanted) == wanted and read_where(wanted[0]) == wanted[:1]
    assert read_where(None) == read_where({}) == read_where([]) == ()


@pytest.mark.parametrize(
    "where",
    [
        "width", "=3", "1a=3", "a b=3", {"a": None}, {"a": {}}, {"a": ("~", 1)},
        {"a": ("in", "xy")}, {"a": [None]}, {"a": float("nan")}, {"a": (">", float("inf"))},
        {1: 2}, 3, [3],
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_the_form_wanted(where):
    with pytest.raises(DataError, match="wanted NAME=VALUE"):
        read_where(where)


def test_values_of_different_kinds_never_fit_and_missing_ones_only_differ():
    assert not Condition("a", "=", 1).holds({"a": True})
    assert not Condition("a", ">", 1).holds({"a": "2"})
    assert Condition("a", "=", 1).holds({"a": 1.0})
    for sign in OPERATORS:
        value = ["x"] if sign == "in" else "x"
        assert Condition("a", sign, value).holds({}) == (sign == "!=")
        assert Condition("a", sign, value).holds({"a": None}) == (sign == "!=")


@given(ROWS, conditions())
def test_columns_give_back_their_rows_and_hold_as_each_row_does(rows, condition):
    columns = Columns(len(rows), bytes(Columns.of(rows).block))
    assert [columns.row(number) for number in range(len(rows))] == rows
    kinds = [{k: type(v) for k, v in row.items()} for row in rows]
    assert [{k: type(v) for k, v in columns.row(n).items()} for n in range(len(rows))] == kinds
    assert columns.holds(condition).tolist() == [condition.holds(row) for row in rows]


@given(ROWS, ROWS, st.randoms(use_true_random=False))
def test_joined_columns_are_those_of_the_chosen_rows(first, second, random):
    parts, chosen = [], []
    for rows in (first, second):
        numbers = sorted(random.sample(range(len(rows)), len(rows) // 2))
        parts.append((Columns.of(rows), np.array(numbers, np.int64)))
        chosen += [rows[number] for number in numbers]
    order = list(range(len(chosen)))
    random.shuffle(order)
    joined = Columns.join(parts, np.array(order, np.int64))
    assert [joined.row(number) for number in range(len(order))] == [chosen[n] for n in order]


@given(st.lists(st.binary(max_size=5), max_size=20))
def test_blobs_give_back_every_string_from_any_buffer(items):
    blobs = Blobs.of(items)
    again = Blobs(memoryview(b"?" + bytes(blobs.block))[1:])
    assert list(blobs) == blobs.tolist() == again.tolist() == items
    with pytest.raises(ValueError, match="cut short"):
        Blobs(bytes(blobs.block)[:-1])


@given(st.text(max_size=8))
def test_any_word_is_read_as_something_plain(text):
    assert isinstance(read_value(text), (str, int, float, bool))
