"""A folder of pictures as the towers read it, with an account of what was wrong with it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mmfm.data.bad import BadSamples, SampleError
from mmfm.data.filters.language import language_hint
from mmfm.data.keyed import content_key
from mmfm.data.layouts import open_layout
from mmfm.data.packed import PackedPictures
from mmfm.data.sample import Sample
from mmfm.errors import DataError, ImageError
from mmfm.preprocess.square import reader
from mmfm.preprocess.transform import Preprocess

MOST_BAD = 0.5  # share of pictures that may be unreadable before the folder is refused
LEAST = 8  # pictures
_SHOWN = 8  # faults named in words
_FOREIGN = 0.2  # share of captions in another language that is worth a word


@dataclass(frozen=True)
class Account:
    """What a folder held: counts, and sentences about what is wrong with it."""

    layout: str
    num_given: int = 0
    num_bad: int = 0
    num_duplicates: int = 0
    num_captionless: int = 0
    languages: dict[str, int] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Pictures:
    """N pictures: encoded with their captions, and as squares of the size that the towers read."""

    samples: list[Sample]
    squares: PackedPictures

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def captions(self) -> list[tuple[str, ...]]:
        return self.squares.captions

    @property
    def keys(self) -> list[str]:
        """sha256 of each encoded picture."""
        return self.squares.keys

    def select(self, rows: Sequence[int] | np.ndarray) -> Pictures:
        """Only these, in this order."""
        rows = np.asarray(rows, np.int64)
        return Pictures([self.samples[i] for i in rows], self.squares.select(rows))

    def captioned(self) -> Pictures:
        """Only those of which something is said."""
        return self.select([i for i, said in enumerate(self.captions) if said])

    @classmethod
    def of(cls, samples: Iterable[Sample], preprocess: Preprocess) -> Pictures:
        """Raises ImageError for the first that cannot be read."""
        square, kept = reader(preprocess, "exact"), list(samples)
        side = preprocess.image_size
        pixels = np.full((len(kept), side, side, 4), 255, np.uint8)
        for place, sample in enumerate(kept):
            pixels[place, ..., :3] = square(sample.image)
        captions = [tuple(text for text in s.captions if text.strip()) for s in kept]
        return cls(kept, PackedPictures(
            pixels, captions, [s.meta for s in kept], [content_key(s.image) for s in kept]
        ))  # fmt: skip


def joined(parts: Sequence[Pictures]) -> Pictures:
    """Several sets as one, in order."""
    squares = [part.squares for part in parts]
    return Pictures(
        [sample for part in parts for sample in part.samples],
        PackedPictures(
            np.concatenate([s.pixels for s in squares]),
            [one for s in squares for one in s.captions],
            [one for s in squares for one in s.meta],
            [one for s in squares for one in s.keys],
        ),
    )


def read_folder(
    path: str | os.PathLike[str], preprocess: Preprocess, *, kind: str | None = None,
    workers: int = 2,
) -> tuple[Pictures, Account]:  # fmt: skip
    """Every picture of a layout that can be read, once; the others are named in the account.

    Copies of a picture are one, with the captions of all. Pictures are kept no larger than twice
    what the towers read. Raises DataError when the path holds no layout, fewer than 8 pictures, or
    when more than half of them cannot be read.
    """
    layout = open_layout(path, kind=kind)
    bad = BadSamples("skip", max_fraction=MOST_BAD)
    found: dict[str, Sample] = {}
    copies = 0
    for sample in layout.samples(bad, size=2 * preprocess.image_size, workers=workers):
        key = content_key(sample.image)
        if key in found:
            copies += 1
            said = dict.fromkeys([*found[key].captions, *sample.captions])
            sample = replace(found[key], captions=tuple(said))
        found[key] = sample
    good = [sample for sample in found.values() if fits(sample, preprocess, bad)]
    bad.check()
    if len(good) < LEAST:
        raise DataError(
            f"{path} holds {len(good)} different pictures that can be read ({bad.num_lost} cannot);"
            f" fine-tuning wants at least {LEAST}, and begins to be worth it at about 50"
        )
    pictures = Pictures.of(good, preprocess)
    return pictures, _account(layout, pictures, bad, copies)


def fits(sample: Sample, preprocess: Preprocess, bad: BadSamples) -> bool:
    """Whether the towers' own reader takes it, which sees shapes that a check does not; `bad` is
    told when not.
    """
    try:
        reader(preprocess, "exact")(sample.image)
    except ImageError as error:
        bad.record(SampleError(str(error), key=sample.key, cause="not-an-image"))
        return False
    return True


def _account(layout: Any, pictures: Pictures, bad: BadSamples, copies: int) -> Account:
    hints = Counter(
        hint.language for said in pictures.captions for text in said
        if (hint := language_hint(text)).language is not None
    )  # fmt: skip
    count = sum(len(said) for said in pictures.captions)
    without = sum(not said for said in pictures.captions)
    notes = list(layout.notes)
    if without:
        notes.append(
            f"{without} of {len(pictures)} pictures have no caption: they teach generation alone "
            "(`mmfm caption --write-txt` can make captions)"
        )
    foreign = [(n, code) for code, n in hints.items() if code != "en"]
    if sum(n for n, _ in foreign) > _FOREIGN * max(1, count):
        most, code = max(foreign)
        notes.append(
            f"{most} of {count} captions look like language '{code}': a model that was trained on "
            "English alone learns them as new words"
        )
    if copies:
        notes.append(f"{copies} copies of pictures left out, their captions kept")
    told = [record["message"] for record in bad.records]
    return Account(
        layout=layout.name, num_given=layout.count(), num_bad=bad.num_lost, num_duplicates=copies,
        num_captionless=without, languages=dict(hints), bad=told, notes=notes,
    )  # fmt: skip


def faults(account: Account) -> list[str]:
    """Lines for people: what was left out, and what to know."""
    lines = [f"left out: {told}" for told in account.bad[:_SHOWN]]
    if len(account.bad) > _SHOWN:
        lines.append(f"left out: {len(account.bad) - _SHOWN} more, in report.json")
    return [*lines, *(f"note: {note}" for note in account.notes)]
