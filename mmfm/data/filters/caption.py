"""Captions that say nothing: file names, addresses, boilerplate, endless or repeated words.

A sample may have several captions. Bad ones are taken out, and the sample goes when none is left;
the reason is then that of its first caption.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from mmfm.data.filters.filter import Drop, MeasuredFilter, SampleFilter
from mmfm.data.sample import Sample
from mmfm.errors import DataError

MAX_WORD_SHARE = 0.5  # of the words of a caption of at least 6, those that are one and the same
_WORD = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*")
# scripts written without spaces: about two signs make a word
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0002ffff]")
_URL = re.compile(r"https?://|\bwww\.|^[\w-]+(\.[\w-]+)*\.(com|net|org|html?|php|aspx?)\b", re.I)
_MARKUP = re.compile(r"</?[a-z][^<>]*>|&(#\d+|#x[0-9a-f]+|[a-z]{2,8});", re.I)
_IMAGE_SUFFIX = re.compile(
    r"\.(jpe?g|jfif|png|gif|webp|bmp|tiff?|heic|heif|svg|psd|cr2|nef)$", re.I
)
_CAMERA_NAME = re.compile(
    r"(image|img|pict?|picture|photo|scan|screen[ _-]?shot|untitled|whatsapp[ _-]image)"
    r"[ _()#.-]*\d[\d _()#.:-]*(at)?[\d _().:-]*(am|pm)?"
    r"|_?(dsc[nf]?|dcim|p|pxl|mvi|mov|vid|wp|gopr|dji|sam)[ _-]?\d{4,}[\d _-]*",
    re.I,
)
_IDENTIFIER = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}|[0-9a-f]{16,}", re.I)
_BOILERPLATE = (
    "image|img|images|photo|photos|photograph|picture|pictures|pic|untitled|no title|thumbnail|"
    "thumb|null|none|nan|n/a|na|undefined|unknown|default|placeholder|caption|no caption|alt|"
    "alt text|description|no description|image description|no image|image not found|no photo|"
    "image not available|no photo available|click to enlarge|click for larger image|click here|"
    "view larger|view full size|enlarge|read more|share|download|loading|stock photo|stock image|"
    "royalty free stock photo|product image|main image|featured image|profile picture|"
    "profile photo|image result|image may contain|slide|screenshot|screen shot"
)
BOILERPLATE = frozenset(_BOILERPLATE.split("|"))


class CaptionJudge(SampleFilter):
    """A filter that looks at each caption by itself."""

    drops_without_caption = False

    @abstractmethod
    def fault(self, caption: str) -> Drop | None:
        """What is wrong with one caption."""

    def judge(self, sample: Sample) -> Drop | None:
        if not sample.captions:
            return Drop("no-caption") if self.drops_without_caption else None
        faults = [self.fault(caption) for caption in sample.captions]
        return faults[0] if all(faults) else None

    def edit(self, sample: Sample) -> Sample:
        good = tuple(caption for caption in sample.captions if self.fault(caption) is None)
        return sample if good == sample.captions else replace(sample, captions=good)


class CaptionFilter(CaptionJudge):
    """Keeps captions with enough words and letters; `clean` also refuses what is no sentence.

    clean: file names and identifiers, addresses, HTML, boilerplate ("image", "click to enlarge"),
    and captions of 6 words or more of which more than half are one word. Words of scripts without
    spaces are counted as two signs each.
    """

    name = "caption"
    drops_without_caption = True

    def __init__(
        self,
        *,
        clean: bool = False,
        min_words: int = 1,
        max_words: int | None = None,
        min_letters: float = 0.0,
    ) -> None:
        """min_letters: share of the signs, spaces aside, that are letters. Raises DataError."""
        if min_words < 0 or (max_words is not None and max_words < max(1, min_words)):
            raise DataError(
                f"captions of {min_words} to {max_words} words cannot be; wanted 0 <= min <= max"
            )
        if not 0 <= min_letters <= 1:
            raise DataError(f"the share of letters is {min_letters}; wanted 0 to 1")
        self.clean, self.min_words, self.max_words = clean, min_words, max_words
        self.min_letters = min_letters

    def settings(self) -> dict[str, Any]:
        return {
            "clean": self.clean,
            "min_words": self.min_words,
            "max_words": self.max_words,
            "min_letters": self.min_letters,
        }

    def fault(self, caption: str) -> Drop | None:
        caption = caption.strip()
        if not caption:
            return Drop("empty")
        if self.clean and (reason := _unclean(caption)):
            return Drop(reason, caption[:200])
        share = letter_share(caption)
        if share < self.min_letters:
            return Drop("few-letters", round(share, 3))
        count = len(words(caption))
        if count < self.min_words:
            return Drop("too-few-words", count)
        if self.max_words is not None and count > self.max_words:
            return Drop("too-many-words", count)
        if self.clean and count >= 6:
            most = Counter(word.lower() for word in words(caption)).most_common(1)[0][1] / count
            if most > MAX_WORD_SHARE:
                return Drop("repeated-words", round(most, 3))
        return None


class RepeatedCaptions(MeasuredFilter):
    """Takes out captions that more than `max_samples` samples carry: the set's own boilerplate.

    All of them go, not only the later ones, so the order of samples does not matter. Captions are
    compared without case, punctuation and extra spaces. In memory: 16 bytes a caption.
    """

    name = "repeated-caption"

    def __init__(self, max_samples: int) -> None:
        """Raises DataError for less than 1."""
        if max_samples < 1:
            raise DataError(f"a caption may stand in {max_samples} samples; wanted at least 1")
        self.max_samples = max_samples
        self.forget()

    def settings(self) -> dict[str, Any]:
        return {"max_samples": self.max_samples}

    def forget(self) -> None:
        self._rows: list[np.ndarray] = []
        self._marks: list[np.ndarray] = []
        self._banned: set[int] = set()

    def measure(self, sample: Sample) -> list[int]:
        return sorted({caption_mark(caption) for caption in sample.captions})

    def see(self, rows: list[int], measures: list[list[int]]) -> None:
        self._rows.append(np.repeat(np.array(rows, np.int64), [len(marks) for marks in measures]))
        flat = [mark for marks in measures for mark in marks]
        self._marks.append(np.array(flat, np.uint64))

    def judge_all(self, rows: np.ndarray) -> Iterator[tuple[int, Drop]]:
        owners = np.concatenate([np.empty(0, np.int64), *self._rows])
        marks = np.concatenate([np.empty(0, np.uint64), *self._marks])
        still = np.isin(owners, rows)
        owners, marks = owners[still], marks[still]
        distinct, inverse, counts = np.unique(marks, return_inverse=True, return_counts=True)
        self._banned = set(distinct[counts > self.max_samples].tolist())
        often = counts[inverse]  # of the caption at each place, in how many samples it stands
        _, first, lengths = np.unique(owners, return_index=True, return_counts=True)
        for start, length in zip(first.tolist(), lengths.tolist()):
            if (least := int(often[start : start + length].min())) > self.max_samples:
                yield int(owners[start]), Drop("too-frequent", least)

    def edit(self, sample: Sample) -> Sample:
        if not self._banned:
            return sample
        good = tuple(line for line in sample.captions if caption_mark(line) not in self._banned)
        return sample if len(good) == len(sample.captions) else replace(sample, captions=good)


def words(caption: str) -> list[str]:
    """Words of a caption; of scripts without spaces, pairs of signs."""
    found: list[str] = []
    for word in _WORD.findall(caption):
        step = 2 if _UNSPACED.search(word) else len(word)
        found += [word[start : start + step] for start in range(0, len(word), step)]
    return found


def letter_share(caption: str) -> float:
    """Share of the signs, spaces aside, that are letters or the marks on them; 0 for none."""
    signs = [unicodedata.category(sign)[0] for sign in caption if not sign.isspace()]
    return sum(kind in "LM" for kind in signs) / max(1, len(signs))


def caption_mark(caption: str) -> int:
    """64 bits of the caption's hash, without case, punctuation and extra spaces."""
    plain = unicodedata.normalize("NFKC", caption).casefold()
    plain = " ".join(_WORD.findall(plain)) or " ".join(plain.split())
    return int.from_bytes(hashlib.sha256(plain.encode()).digest()[:8], "little")


def _unclean(caption: str) -> str | None:
    """Why a stripped caption is no description, in a word."""
    plain = " ".join(caption.lower().split()).strip(" .!:-_")
    stem = _IMAGE_SUFFIX.sub("", plain)
    if (stem != plain and " " not in stem) or _CAMERA_NAME.fullmatch(stem):
        return "file-name"
    if _IDENTIFIER.fullmatch(stem):
        return "identifier"
    if _URL.search(caption):
        return "url"
    if _MARKUP.search(caption):
        return "markup"
    if stem in BOILERPLATE:
        return "boilerplate"
    return None
