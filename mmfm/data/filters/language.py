"""A hint at the language of a caption: by its script, and in Latin letters by frequent words.

A hint, not a judge: captions are short, and "red car" or a name have no language of their own. On
the hand-written captions of `tests/data/filters/captions.py` the tests measure how many are
decided, and how many of these rightly. Where a word is shared by several languages, each gets its
part; a language is named only when it is clearly ahead, else the hint is None.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mmfm.data.filters.caption import CaptionJudge
from mmfm.data.filters.filter import Drop
from mmfm.data.filters.stop_words import ENGLISH_TOO, LETTERS, STOP_WORDS
from mmfm.errors import DataError

MIN_VOTES = 0.5  # words' worth of evidence that a decision needs
LEAD = 1.3  # how many times the evidence of the next language

# script as the Unicode name of its letters begins -> languages told by letters, the first if none
SCRIPTS = {
    "CYRILLIC": {"ru": "", "uk": "іїєґ", "bg": ""},
    "ARABIC": {"ar": "", "fa": "پچژگ", "ur": "ٹڈڑںے"},
    "CJK": {"zh": ""},
    "HIRAGANA": {"ja": ""},
    "KATAKANA": {"ja": ""},
    "HANGUL": {"ko": ""},
    "HEBREW": {"he": ""},
    "GREEK": {"el": ""},
    "THAI": {"th": ""},
    "DEVANAGARI": {"hi": ""},
    "BENGALI": {"bn": ""},
    "TAMIL": {"ta": ""},
    "TELUGU": {"te": ""},
    "GEORGIAN": {"ka": ""},
    "ARMENIAN": {"hy": ""},
}
BULGARIAN = {"и", "на", "със", "от", "върху", "е", "са", "един", "една", "едно", "до", "пред"}
RUSSIAN = {"и", "на", "с", "в", "у", "из", "под", "около", "стоит", "сидит", "от", "до", "перед"}
LANGUAGES = sorted({*STOP_WORDS, *(code for codes in SCRIPTS.values() for code in codes)})
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Hint:
    """language: two letters (ISO 639-1), None when undecided. script: None without letters."""

    language: str | None
    script: str | None


def _sharers(lists: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    owners: dict[str, list[str]] = defaultdict(list)
    for language, items in lists.items():
        for item in set(items):
            owners[item].append(language)
    return dict(owners)


_WORD_LISTS = {language: text.split() for language, text in STOP_WORDS.items()}
_WORD_OWNERS = _sharers({**_WORD_LISTS, "en": [*_WORD_LISTS["en"], *ENGLISH_TOO.split()]})
_LETTER_OWNERS = _sharers(LETTERS)


def language_hint(caption: str) -> Hint:
    """The language a caption is likely written in."""
    text = unicodedata.normalize("NFC", caption).casefold()
    script = _script(text)
    if script == "LATIN":
        return Hint(_latin(text), script)
    if script is None or script not in SCRIPTS:
        return Hint(None, script)
    if script == "CYRILLIC" and not set("іїєґыэё") & set(text):
        words = set(_WORD.findall(text))
        bulgarian, russian = len(words & BULGARIAN), len(words & RUSSIAN)
        if ("ъ" in text and bulgarian > russian) or bulgarian > russian + 1:
            return Hint("bg", script)
    codes = SCRIPTS[script]
    told = [code for code, letters in codes.items() if set(letters) & set(text)]
    return Hint(told[-1] if told else next(iter(codes)), script)


class LanguageFilter(CaptionJudge):
    """Keeps captions whose hint is one of `languages`; what is undecided stays if `unknown`.

    Undecided captions in a script that none of the languages uses go in any case.
    """

    name = "language"

    def __init__(self, languages: Iterable[str], unknown: bool = True) -> None:
        """Raises DataError for a language that no hint can name."""
        self.languages = frozenset(languages)
        self.unknown = unknown
        strange = sorted(self.languages - set(LANGUAGES))
        if strange or not self.languages:
            raise DataError(
                f"no hint names the language {', '.join(strange) or '(none given)'}; there are"
                f" {' '.join(LANGUAGES)}"
            )
        self._scripts = {
            script for script, codes in SCRIPTS.items() if self.languages & set(codes)
        } | ({"LATIN"} if self.languages & set(STOP_WORDS) else set())

    def settings(self) -> dict[str, Any]:
        return {"languages": sorted(self.languages), "keep_unknown": self.unknown}

    def fault(self, caption: str) -> Drop | None:
        hint = language_hint(caption)
        if hint.language in self.languages:
            return None
        if hint.language is not None:
            return Drop("other-language", hint.language)
        if hint.script is not None and hint.script not in self._scripts:
            return Drop("other-script", hint.script.lower())
        return None if self.unknown else Drop("undecided-language")


def _script(text: str) -> str | None:
    """The script of most letters; any kana makes Han Japanese."""
    counts = Counter(_letter_script(sign) for sign in text if sign.isalpha())
    if counts["HIRAGANA"] + counts["KATAKANA"] and counts["CJK"]:
        counts["HIRAGANA"] += counts.pop("CJK")
    return min(counts, key=lambda script: (-counts[script], script)) if counts else None


@lru_cache(maxsize=4096)
def _letter_script(sign: str) -> str:
    return unicodedata.name(sign, "UNKNOWN").split(" ", 1)[0].split("-", 1)[0]


def _latin(text: str) -> str | None:
    votes: dict[str, float] = defaultdict(float)
    for word in _WORD.findall(text):
        known = _WORD_OWNERS.get(word, ()) if len(word) > 1 or not word.isascii() else ()
        for owners in (
            known,  # of a letter alone: () for it may be a label, as in "vitamin e"
            *(_LETTER_OWNERS.get(letter, ()) for letter in set(word) if not letter.isascii()),
        ):
            for language in owners:
                votes[language] += 1 / len(owners)
    ranked = sorted(votes.items(), key=lambda vote: (-vote[1], vote[0]))
    if not ranked or ranked[0][1] < MIN_VOTES:
        return None
    if len(ranked) > 1 and ranked[0][1] < LEAD * ranked[1][1]:
        return None
    return ranked[0][0]
