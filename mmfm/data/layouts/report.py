"""What `mmfm data inspect` tells: how much there is, of what kind, and what would fail and why."""

from __future__ import annotations

import hashlib
import random
import statistics
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from mmfm.data.bad import BadSamples
from mmfm.data.layouts.layout import Entry, Layout
from mmfm.errors import DataError

EXAMPLES = 3  # of each cause
LIMIT = 2000  # pictures decoded unless the caller says otherwise


def inspect(
    layout: Layout,
    *,
    limit: int | None = LIMIT,
    seed: int = 0,
    tick: Callable[[], Any] = lambda: None,
) -> dict[str, Any]:
    """Look at the pictures of a layout; the report as JSON can hold it.

    limit: how many pictures are decoded, drawn at random with `seed` when there are more; None
    for all. What needs no picture (names, captions, classes) is looked through whole, except in
    layouts that keep it with the pictures. tick: called for each picture.
    Raises DataError when no picture looked at can be used.
    """
    count = layout.count()
    drawn = None
    if limit is not None and count > limit:
        drawn = sorted(random.Random(seed).sample(range(count), limit))
    looked_at = count if drawn is None else len(drawn)
    listing, broken = (BadSamples("skip", max_fraction=1.0) for _ in range(2))
    words, pictures = _Words(), _Pictures()
    if layout.lists_quickly:
        for entry in layout.entries(listing):
            words.add(entry)
    told_already = BadSamples("skip", max_fraction=1.0)
    for entry in layout.entries(told_already if layout.lists_quickly else listing, drawn):
        if not layout.lists_quickly:
            words.add(entry)
        pictures.add(layout, entry, broken)
        tick()
    if not pictures.names:
        raise DataError(f"no picture of {layout.root} can be used: {_causes(listing, broken)}")
    return {
        "kind": layout.kind,
        "layout": layout.name,
        "are_shards": layout.are_shards,
        "notes": list(layout.notes),
        "pictures": count,
        "looked_at": looked_at,
        "seed": None if drawn is None else seed,
        "usable": pictures.formats.total(),
        **words.report(of_all=drawn is None or layout.lists_quickly),
        **pictures.report(),
        "bad": _bad(listing, broken),
        "bad_share": _share(layout, listing, broken, count, looked_at),
    }


class _Words:
    """Captions and classes of entries."""

    def __init__(self) -> None:
        self.each = array("I")  # captions of a picture
        self.words = array("I")  # words of a caption
        self.classes: Counter[str] = Counter()

    def add(self, entry: Entry) -> None:
        self.each.append(len(entry.captions))
        self.words.extend(len(caption.split()) for caption in entry.captions)
        if "class" in entry.meta:
            self.classes[str(entry.meta["class"])] += 1

    def report(self, of_all: bool) -> dict[str, Any]:
        return {
            "captions": {
                "of_all_pictures": of_all,
                "count": len(self.words),
                "pictures_without": self.each.count(0),
                "per_picture": _spread(self.each),
                "words": _spread(self.words),
            },
            "classes": dict(self.classes.most_common()),
        }


class _Pictures:
    """Sizes, formats and copies of the pictures that could be decoded."""

    def __init__(self) -> None:
        self.widths, self.heights, self.sizes = array("I"), array("I"), array("Q")
        self.formats: Counter[str] = Counter()
        self.names: dict[bytes, list[str]] = {}  # by content

    def add(self, layout: Layout, entry: Entry, bad: BadSamples) -> None:
        data = b""

        def read() -> bytes:
            nonlocal data
            data = entry.read()
            return data

        held = Entry(entry.key, entry.name, entry.captions, entry.meta, read)
        picture = layout.picture(held, bad)
        if picture is None:
            return
        self.widths.append(picture.width)
        self.heights.append(picture.height)
        self.sizes.append(len(data))
        self.formats[picture.format] += 1
        self.names.setdefault(hashlib.sha256(data).digest(), []).append(entry.name)

    def report(self) -> dict[str, Any]:
        copies = [names for names in self.names.values() if len(names) > 1]
        aspects = [width / height for width, height in zip(self.widths, self.heights)]
        return {
            "formats": dict(self.formats.most_common()),
            "width": _spread(self.widths),
            "height": _spread(self.heights),
            "shortest_side": _spread(map(min, self.widths, self.heights)),
            "aspect": _spread(aspects, digits=2),
            "file_bytes": _spread(self.sizes),
            "duplicates": {
                "copies": sum(len(names) - 1 for names in copies),
                "examples": [names[:4] for names in copies[:EXAMPLES]],
            },
        }


def _spread(values: Iterable[float], digits: int = 0) -> dict[str, float] | None:
    values = sorted(values)
    if not values:
        return None
    three = {"min": values[0], "median": statistics.median(values), "max": values[-1]}
    return {name: round(value, digits) if digits else int(value) for name, value in three.items()}


def _bad(*accounts: BadSamples) -> dict[str, Any]:
    told: dict[str, list[str]] = {}
    for record in (record for bad in accounts for record in bad.records):
        told.setdefault(record["cause"], []).append(record["message"])
    causes = sorted(told.items(), key=lambda item: -len(item[1]))
    return {
        cause: {"count": len(messages), "examples": messages[:EXAMPLES]}
        for cause, messages in causes
    }


def _causes(*accounts: BadSamples) -> str:
    causes = _bad(*accounts)
    if not causes:
        return "there is none"
    first = next(iter(causes.values()))["examples"][0]
    counts = ", ".join(f"{cause} {found['count']}" for cause, found in causes.items())
    return f"{counts}; the first: {first}"


def _share(
    layout: Layout, listing: BadSamples, broken: BadSamples, count: int, looked_at: int
) -> float:
    """The share of all that cannot be used: exact where all was looked at, else estimated."""
    lost = sum(samples for _, samples in layout.listed_faults())
    named = listing.num_lost - lost  # places without an entry
    of_places = named / (count if layout.lists_quickly else looked_at) + broken.num_lost / looked_at
    return (lost + of_places * count) / (lost + count)
