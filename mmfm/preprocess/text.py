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


def check_texts(texts: Any, *, blank: bool = False) -> list[str]:
    """One string or an iterable of strings -> a list of strings, unchanged.

    blank: take empty texts too, which have a vector but say nothing. Raises TextError for an empty
    list, an empty or blank text, anything that is not a string, or a string that is no text.
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
        if not blank and not text.strip():
            raise TextError(f"{where} is empty; say something.")
        if not text.isascii() and not _is_unicode(text):
            raise TextError(f"{where} holds half a character ({text[:40]!a}); decode it anew.")
    return checked


def truncate_check(
    tokenizer: Tokenizer, texts: list[str], context_length: int, truncate: str = "warn",
    *, marks: int = 2, total: int | None = None,
) -> None:  # fmt: skip
    """Say when texts are longer than the text tower reads, and which part it will not see.

    A text may have context_length - marks tokens; the others are its start and end marks.
    truncate: "warn" gives one UserWarning for all texts; "error" raises TextError at the first.
    total: how many texts there are, when only those that may be too long are given.
    """
    if truncate not in ("warn", "error"):
        raise TextError(f"Got truncate={truncate!r}; wanted 'warn' or 'error'.")
    room = context_length - marks
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
        total = len(texts) if total is None else total
        more = f" ({len(longer)} of {total} texts are too long)" if total > 1 else ""
        warnings.warn(f"Too long: {longer[0]}{more}.", UserWarning, stacklevel=3)


def word_reader(tokenizer: Any) -> tuple[Tokenizer, int] | None:
    """What tells a text's tokens, without the marks around them, and how many marks there are.

    tokenizer: open_clip's own, or its wrapper of a Hugging Face one; None for any other.
    """
    if hasattr(tokenizer, "encode") and hasattr(tokenizer, "decode"):
        return tokenizer, 2
    inner: Any = getattr(tokenizer, "tokenizer", None)
    if not hasattr(inner, "num_special_tokens_to_add"):
        return None
    return _HuggingFace(tokenizer), inner.num_special_tokens_to_add()


class _HuggingFace:
    def __init__(self, wrapper: Any) -> None:
        self.clean = getattr(wrapper, "clean_fn", str)
        self.inner = wrapper.tokenizer

    def encode(self, text: str) -> list[int]:
        return self.inner.encode(self.clean(text), add_special_tokens=False)

    def decode(self, ids: list[int]) -> str:
        return self.inner.decode(ids)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a surrogate without its other half
        return False
    return True
