"""The language hint, measured on captions written by hand."""

import pytest

from mmfm.data.filters import LanguageFilter
from mmfm.data.filters.language import LANGUAGES, language_hint
from mmfm.errors import DataError
from tests.data.filters.captions import CAPTIONS
from tests.data.filters.pictures import sample

PAIRS = [(language, text) for language, texts in CAPTIONS.items() for text in texts]
# English names and terms that look foreign word by word
ENGLISH = [
    "man gesturing no", "chat bubble", "shopping bag", "open door", "candy cane", "bar chart",
    "regional indicator y", "die cast car", "war memorial", "vitamin e", "AI robot", "sort button",
    "El Capitan at dusk", "a café in Paris", "salt and pepper", "hot air balloon", "yin yang",
]  # fmt: skip


def test_most_captions_are_decided_and_nearly_all_of_these_rightly():
    hints = [(language, language_hint(text).language) for language, text in PAIRS]
    decided = [(wanted, hint) for wanted, hint in hints if hint is not None]
    right = sum(wanted == hint for wanted, hint in decided)
    assert len(PAIRS) == 138
    assert len(decided) >= 0.80 * len(PAIRS)  # measured: 111
    assert right >= 0.99 * len(decided)  # measured: 110


def test_keeping_english_loses_none_of_it_and_drops_most_of_the_rest():
    english = LanguageFilter(["en"])
    lost = [text for text in CAPTIONS["en"] + ENGLISH if english.fault(text)]
    foreign = [text for language, text in PAIRS if language != "en"]
    stays = [text for text in foreign if english.fault(text) is None]
    assert lost == []
    assert len(stays) <= 0.2 * len(foreign)  # measured: 24 of 124, short ones without a clue


def test_a_strict_filter_keeps_only_what_is_clear():
    strict = LanguageFilter(["en"], unknown=False)
    stays = [(language, text) for language, text in PAIRS if strict.fault(text) is None]
    assert {language for language, _ in stays} == {"en"}
    assert strict.fault("minimalist kitchen").reason == "undecided-language"


@pytest.mark.parametrize(
    ("text", "language", "script"),
    [
        ("犬が走る", "ja", "HIRAGANA"), ("狗在跑", "zh", "CJK"), ("1234 :-)", None, None),
        ("Сетка", "ru", "CYRILLIC"), ("їжак", "uk", "CYRILLIC"), ("گربه روی چمن", "fa", "ARABIC"),
        ("red dog and собака", "en", "LATIN"), ("куче на плажа със топка е", "bg", "CYRILLIC"),
        ("ⴰⵣⵓⵍ", None, "TIFINAGH"),
    ],
)  # fmt: skip
def test_scripts(text, language, script):
    hint = language_hint(text)
    assert (hint.language, hint.script) == (language, script)


def test_reasons_name_what_was_found():
    english = LanguageFilter(["en"])
    assert english.fault("ein roter Hund auf der Straße").value == "de"
    assert english.fault("ⴰⵣⵓⵍ").reason == "other-script"
    assert english.fault("X-200") is None
    assert LanguageFilter(["ru"]).fault("Kitchen").reason == "other-script"


def test_captions_of_other_languages_are_taken_out_and_samples_without_any_stay():
    both = sample(1, "ein roter Hund auf der Straße", "a red dog on the street")
    english = LanguageFilter(["en"])
    assert english.judge(both) is None
    assert english.edit(both).captions == ("a red dog on the street",)
    assert english.judge(sample(1, "ein roter Hund auf der Straße")).reason == "other-language"


@pytest.mark.parametrize("codes", [["english"], ["xx", "en"], []])
def test_an_unknown_language_is_refused_with_the_known_ones(codes):
    with pytest.raises(DataError, match="ar bg"):
        LanguageFilter(codes)
    assert {"en", "de", "ja"} <= set(LANGUAGES)
