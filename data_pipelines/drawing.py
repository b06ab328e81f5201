"""A drawing on its way from a source to a shard, and what a source reports beside it."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One picture that is not drawn yet, with cleaned words. Exactly one of svg and png is set."""

    set: str  # Iconify prefix, or "openclipart"
    icon: str  # the source's own name, unique in the set
    name: str  # cleaned, with skin tone
    concept: str  # cleaned, without set and skin tone
    style: str
    category: str | None = None
    keywords: tuple[str, ...] = ()
    source: str
    license: str  # SPDX
    author: str
    skin_tone: str | None = None
    svg: str | None = field(default=None, repr=False)
    png: bytes | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        return f"{self.set}:{self.icon}"


@dataclass
class SetReport:
    """What became of one set: who made it, under which licence, and what each rule dropped."""

    license: str
    author: str
    url: str
    found: int = 0
    kept: int = 0
    dropped: Counter = field(default_factory=Counter)

    def drop(self, rule: str, count: int = 1) -> None:
        self.dropped[rule] += count


def split_of(key: str, concept: str) -> str:
    """The part of the corpus a drawing belongs to: "unseen", "test" or "train".

    `key` is "set:icon" with the source's own icon name. A concept is wholly unseen or wholly not.
    """
    if _bucket(concept, 33) == 0:
        return "unseen"
    return "test" if _bucket(key, 20) == 0 else "train"


def _bucket(text: str, count: int) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % count
