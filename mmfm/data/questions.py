"""What a caption head can be asked about a drawing, and the answers that its data supports.

A kind is a prompt with a rule for its answer. Answers come from the metadata of a sample (name,
style, keywords) and from what was rendered: `colours` of its pixels, `count` of its copies. Where
that is missing there is no such question. Training draws kinds by SHARES; evaluation asks all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from mmfm.data.copies import NUMBERS

Pair = tuple[str, str]  # prompt, answer
_MAX_KEYWORDS = 6

# kind -> the ways to ask for it; the first is how evaluation asks
PROMPTS: dict[str, tuple[str, ...]] = {
    "name": ("",),
    "prefix": ("a drawing of", "a picture of"),
    "style": ("style:",),
    "keywords": ("keywords:",),
    "sentence": ("sentence:",),
    "what": ("question: what is it? answer:", "question: what is this? answer:"),
    "colour": ("question: what colour is it? answer:", "question: what color is it? answer:"),
    "which style": ("question: which style is it? answer:",),
    "how many": ("question: how many are there? answer:",),
    "is there": ("question: is there {thing}? answer:",),
}
KINDS = tuple(PROMPTS)
# How often training asks for each, before those without an answer are left out.
SHARES = {
    "name": 0.50, "prefix": 0.06, "style": 0.03, "keywords": 0.05, "sentence": 0.06, "what": 0.06,
    "colour": 0.09, "which style": 0.04, "is there": 0.11,
}  # fmt: skip
SHARES_OF_COPIES = {"name": 0.1, "what": 0.1, "colour": 0.05, "how many": 0.75}


def with_article(name: str) -> str:
    """ "an apple" of "apple"."""
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def answer(kind: str, name: str, meta: Mapping[str, Any]) -> str | None:
    """What is right to say; None where the data does not tell. Not for "is there"."""
    style, colours = meta.get("style"), meta.get("colours") or ()
    if kind in ("name", "prefix", "what"):
        return name
    if kind in ("style", "which style"):
        return style
    if kind == "keywords":
        return ", ".join((meta.get("keywords") or ())[:_MAX_KEYWORDS]) or None
    if kind == "colour":
        return " and ".join(colours) or None
    if kind == "how many":
        return NUMBERS[meta["count"] - 1] if meta.get("count") else None
    if kind == "sentence" and style and colours:
        return f"{with_article(' and '.join(colours))} {style} of {name}"
    return None


def ask(
    kind: str, name: str, meta: Mapping[str, Any], other: str | None = None, way: int = 0
) -> Pair | None:
    """(prompt, answer) of a kind, or None where the data has no answer.

    other: the name of another picture, for "is there": asked for and not there. None asks for this
    one. way: which of the kind's prompts.
    """
    ways = PROMPTS[kind]
    prompt = ways[way % len(ways)]
    if kind == "is there":
        if other is not None and set(other.split()) & set(name.split()):
            return None  # a "red apple" has an apple in it
        return prompt.format(thing=with_article(other or name)), "no" if other else "yes"
    right = answer(kind, name, meta)
    return None if right is None else (prompt, right)


def drawn(name: str, meta: Mapping[str, Any], other: str, draw: Callable[[], float]) -> Pair:
    """A question of a random kind; draw: gives numbers in [0, 1). Falls back to the name."""
    shares = SHARES_OF_COPIES if meta.get("count") else SHARES
    place = draw() * sum(shares.values())
    edges = zip(shares, accumulate(shares.values()), strict=True)
    kind = next((kind for kind, edge in edges if place < edge), "name")
    absent = kind == "is there" and draw() < 0.5
    way = int(draw() * len(PROMPTS[kind]))
    return ask(kind, name, meta, other if absent else None, way) or ("", name)


def every_text(names: Sequence[str], metas: Sequence[Mapping[str, Any]]) -> list[str]:
    """All that training can say or be asked, from which the vocabulary is built; with repeats."""
    texts = [way.format(thing="a an") for ways in PROMPTS.values() for way in ways]
    texts += [*NUMBERS, "yes", "no"]
    for name, meta in zip(names, metas, strict=True):
        answers = (answer(kind, name, meta) for kind in ("name", "style", "keywords", "colour"))
        texts += [text for text in answers if text]
    return texts
