"""How captions are compared: as lower-case words, without punctuation."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """The words of a text, case-folded, Unicode NFKC; "T-shirt: 10" gives t, shirt, 10."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def exact_match(candidate: str, references: Sequence[str]) -> bool:
    """True when the candidate has the same words in the same order as some reference."""
    return any(words(candidate) == words(reference) for reference in references)


def token_f1(candidate: str, references: Sequence[str]) -> float:
    """Harmonic mean of word precision and recall, in [0, 1]; the best over the references.

    Words are counted with multiplicity (SQuAD, arXiv:1606.05250); two texts without words agree.
    """
    return max((_f1(words(candidate), words(reference)) for reference in references), default=0.0)


def _f1(candidate: list[str], reference: list[str]) -> float:
    if not candidate and not reference:
        return 1.0
    overlap = sum((Counter(candidate) & Counter(reference)).values())
    return 2 * overlap / (len(candidate) + len(reference))
