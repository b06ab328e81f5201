"""Samples whose makers said that they must not be trained on, as the meta fields tell it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from mmfm.data.filters.filter import Drop, SampleFilter
from mmfm.data.sample import Sample

DIRECTIVES = ("noai", "noimageai")
HEADERS = ("x_robots_tag", "robots", "meta_robots")  # hold directives; others answer yes or no
FLAGS = ("noai", "noimageai", "no_ai", "opt_out", "optout", "opted_out", "tdm_reservation")
# what such a field holds when nobody opted out
NO = {"", "0", "0.0", "false", "no", "n", "f", "off", "none", "null", "nan", "[]", "{}"}
PERMISSION = {"all", "index", "follow"}  # robots directives that forbid nothing
_NAME = re.compile(r"[-_\s]+")
_WORD = re.compile(r"[a-z0-9_.-]+")


class OptOutFilter(SampleFilter):
    """Drops what is opted out: `X-Robots-Tag: noai` or `noimageai`, `opt_out: true`, and the like.

    Names are compared without case, `-` and `_` alike, also one level down (a field `headers`).
    A field that says anything but no counts as an opt-out: in doubt the sample goes.
    """

    name = "opt-out"

    def __init__(self, columns: Iterable[str] = ()) -> None:
        """columns: names of further fields, beside FLAGS and HEADERS."""
        self.columns = tuple(columns)
        self._flags = {_plain(name) for name in (*FLAGS, *self.columns)} - set(HEADERS)

    def settings(self) -> dict[str, Any]:
        return {"columns": [*HEADERS, *sorted(self._flags)], "directives": list(DIRECTIVES)}

    def judge(self, sample: Sample) -> Drop | None:
        for name, value in _fields(sample.meta):
            plain = _plain(name)
            if plain in HEADERS and (said := _directive(value)):
                return Drop(said, f"{name}: {value}"[:200])
            if plain in self._flags and not _says_no(value):
                return Drop("opted-out", f"{name}: {value}"[:200])
        return None

    def warning(self, fields: dict[str, int], kept: int) -> str | None:
        there = {_plain(name) for name in fields}
        for name in self.columns:
            if kept and _plain(name) not in there:
                return f"no sample that was kept has a field '{name}' to opt out with"
        return None


def _plain(name: str) -> str:
    return _NAME.sub("_", name.strip().lower())


def _fields(meta: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in meta.items():
        if isinstance(value, dict):
            yield from ((inner, held) for inner, held in value.items())
        yield name, value


def _directive(value: Any) -> str | None:
    """The first directive of DIRECTIVES in a header's value, a text or a list of texts."""
    words = _WORD.findall(str(value).lower())
    return next((word for word in words if word in DIRECTIVES), None)


def _says_no(value: Any) -> bool:
    text = str(value).strip().lower()
    words = set(_WORD.findall(text))
    return text in NO or (bool(words) and words <= PERMISSION)
