"""Conditions on the metadata of rows, in a form that every engine can carry out.

`{"label": "cat", "width": (">=", 300), "tag": ("in", ["a", "b"])}`, or the same as words:
`["label=cat", "width>=300"]`. All conditions must hold. A row without the name fits none but `!=`.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mmfm.errors import DataError

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
OPERATORS = ("=", "!=", *_COMPARE, "in")
_WORDS = re.compile(r"\s*([A-Za-z_]\w*)\s*(<=|>=|!=|=|<|>)\s*(.*?)\s*", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_]\w*")  # so that it can be a column of a database


class Condition(NamedTuple):
    """One comparison of the metadata called `name`; `value` is a list for "in"."""

    name: str
    operator: str
    value: Any

    def holds(self, metadata: Mapping[str, Any]) -> bool:
        """Whether a row fits; values of different kinds (a text, a number) never do."""
        there = metadata.get(self.name)
        if self.operator == "!=":
            return there is None or not _same(there, self.value)
        if there is None:
            return False
        if self.operator == "=":
            return _same(there, self.value)
        if self.operator == "in":
            return any(_same(there, value) for value in self.value)
        if _kind(there) != _kind(self.value):
            return False
        return _COMPARE[self.operator](there, self.value)


def read_where(where: Any) -> tuple[Condition, ...]:
    """What a caller passes as `where` -> its conditions; None and {} have none.

    Raises DataError with the form wanted.
    """
    if where is None:
        return ()
    if isinstance(where, (str, Condition)):
        where = [where]
    if isinstance(where, Mapping):
        return tuple(_from_pair(name, value) for name, value in where.items())
    if isinstance(where, Sequence):
        return tuple(one if isinstance(one, Condition) else _from_words(one) for one in where)
    raise _refused(where)


def _from_pair(name: Any, value: Any) -> Condition:
    sign = "="
    if isinstance(value, tuple) and len(value) == 2:
        sign, value = value
    elif isinstance(value, list):
        sign = "in"
    return _checked(name, sign, value)


def _from_words(words: Any) -> Condition:
    match = _WORDS.fullmatch(words) if isinstance(words, str) else None
    if match is None:
        raise _refused(words)
    name, sign, text = match.groups()
    return _checked(name, sign, read_value(text))


def read_value(text: str) -> Any:
    """A word as JSON has it (a number, true, false, a text in quotes), any other as a text."""
    text = text.strip()
    try:
        value = json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return text
    is_plain = isinstance(value, (str, bool, int)) or _is_finite(value)
    return value if is_plain else text


def _checked(name: Any, sign: Any, value: Any) -> Condition:
    values = value if sign == "in" and isinstance(value, (list, tuple)) else [value]
    if sign == "in" and not isinstance(value, (list, tuple)):
        raise _refused((name, sign, value))
    plain = all(isinstance(one, (str, int, bool)) or _is_finite(one) for one in values)
    if not isinstance(name, str) or not _NAME.fullmatch(name) or sign not in OPERATORS or not plain:
        raise _refused((name, sign, value))
    return Condition(name, sign, list(values) if sign == "in" else value)


def _refused(where: Any) -> DataError:
    return DataError(
        f"Got the condition {where!r}; wanted NAME=VALUE with one of {' '.join(OPERATORS)}, such "
        'as {"label": "cat", "width": (">=", 300)} or "width>=300".'
    )


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, (int, float)) else type(value).__name__


def _same(a: Any, b: Any) -> bool:
    return _kind(a) == _kind(b) and a == b
