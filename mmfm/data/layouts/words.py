"""Texts of data sets: files in UTF-8, cells that hold one caption or a list, names of classes."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

from mmfm.errors import DataError

_GAPS = re.compile(r"[_\s]+|(?<=[A-Za-z])-(?=[A-Za-z])")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark. Raises DataError otherwise."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise not_utf8(path) from None


def not_utf8(path: Path) -> DataError:
    """The error that names the first line of a file that is no UTF-8."""
    line = 0
    with open(path, "rb") as stream:
        for line, data in enumerate(stream, 1):  # noqa: B007  the number is used below
            try:
                data.decode("utf-8")
            except UnicodeDecodeError:
                break
    return DataError(
        f"line {line} of {path} is not UTF-8 (latin-1 or another encoding?); convert the file,"
        " for example with: iconv -f latin1 -t utf-8"
    )


def is_text(text: str) -> bool:
    """Whether UTF-8 can hold it: no half of a surrogate pair, which JSON may name."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_json(text: str) -> Any:
    """`json.loads`, for which a text nested too deeply is a ValueError like any other fault."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def captions_in(cell: Any) -> tuple[str, ...]:
    """The captions of a cell: a text, a list of texts, or a list written as JSON or Python.

    Empty ones are dropped, repeated ones kept once; a number is its digits.
    """
    if isinstance(cell, str) and cell.lstrip().startswith("[") and cell.rstrip().endswith("]"):
        cell = _written_list(cell)
    values = cell if isinstance(cell, (list, tuple)) else [cell]
    texts = (str(v).strip() for v in values if isinstance(v, (str, int, float)) and v == v)
    return tuple(dict.fromkeys(text for text in texts if text))


def _written_list(cell: str) -> Any:
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
    return cell  # a caption that happens to stand in brackets


def class_words(name: str) -> str:
    """`tabby_cat` -> "tabby cat", `Golden-Retriever` -> "Golden Retriever"."""
    return _GAPS.sub(" ", name).strip() or name
