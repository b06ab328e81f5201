"""Checks on texts before they are tokenised: nothing empty, nothing cut without a word."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, Protocol

from mmfm.errors import TextError

_SHOWN = 120  # characters of the cut part that a message shows


class Tokenizer(Protocol):
    """The two methods used of open_clip's SimpleTokenizer."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...


def check_texts(texts: Any) -> list[str]:
    """One string or an iterable of strings -> a list of strings, unchanged.

    Raises TextError for an empty list, an empty or blank text, or anything that is not a string.
    """
    if isinstance(texts, str):
        checked = [texts]
    elif isinstance(texts, Iterable) and not isinstance(texts, (bytes, bytearray)):
        checked = list(texts)
    else:
        raise TextError(f"Got {type(texts).__name__} where a text or a list of texts was wanted.")
    if not checked:
        raise TextError("Got an empty list of texts; give at least one.")
    for position, text in enumerate(checked):
        where = "The text" if len(checked) == 1 else f"Text {position} of {len(checked)}"
        if not isinstance(text, str):
            raise TextError(f"{where} is {type(text).__name__}, wanted a string.")
        if not text.strip():
            raise TextError(f"{where} is empty; say something.")
    return checked


def truncate_check(
    tokenizer: Tokenizer, texts: list[str], context_length: int, truncate: str = "warn"
) -> None:
    """Say when texts are longer than the text tower reads, and which part it will not see.

    A text may have context_length - 2 tokens; two places are taken by its start and end marks.
    truncate: "warn" gives one UserWarning for all texts; "error" raises TextError at the first.
    """
    if truncate not in ("warn", "error"):
        raise TextError(f"Got truncate={truncate!r}; wanted 'warn' or 'error'.")
    room = context_length - 2
    longer: list[str] = []
    for text in texts:
        ids = list(tokenizer.encode(text))
        if len(ids) <= room:
            continue
        cut = tokenizer.decode(ids[room:]).strip()
        cut = cut if len(cut) <= _SHOWN else cut[:_SHOWN] + "…"
        longer.append(f'a text has {len(ids)} tokens, {room} are read, this is cut off: "{cut}"')
        if truncate == "error":
            raise TextError(f"Too long: {longer[0]}; shorten it, or use truncate='warn'.")
    if longer:
        more = f" ({len(longer)} of {len(texts)} texts are too long)" if len(texts) > 1 else ""
        warnings.warn(f"Too long: {longer[0]}{more}.", UserWarning, stacklevel=3)
