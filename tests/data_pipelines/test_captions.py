"""Cleaning names: a table of names as the sources give them."""

import pytest

from data_pipelines.captions import (
    clean_icon_name,
    clean_text,
    is_usable,
    make_captions,
    split_tones,
    with_tone,
    words_of_camel_case,
)
from data_pipelines.sources.emojibase import clean_label
from data_pipelines.sources.openclipart import name_of, read_words
from tests.data_pipelines.handmade import clip_art


@pytest.mark.parametrize(
    ("icon", "options", "name"),
    [
        ("book-open-16", {}, "book open"),
        ("raised-hand-2", {}, "raised hand"),
        ("android1", {}, "android"),
        ("hard-disk-flat", {"suffixes": ("", "flat")}, "hard disk"),
        ("airplane-1-flat", {"suffixes": ("flat",)}, "airplane"),
        ("apartment-flat", {}, "apartment flat"),
        ("fingerprint-three", {"number_words": True}, "fingerprint"),
        ("fingerprint-three", {}, "fingerprint three"),
        ("one", {"number_words": True}, "one"),
        ("3d-glasses", {}, "3d glasses"),
    ],
)
def test_icon_names(icon, options, name):
    assert clean_icon_name(icon, **options) == name


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("flag: France", "flag of france"),
        ("flag: Côte d’Ivoire", "flag of côte d'ivoire"),
        ("man: red hair", "man with red hair"),
        ("woman: bald", "bald woman"),
        ("kiss: woman, man", "kiss woman man"),
        ("Japanese “free of charge” button", "japanese free of charge button"),
        ("A button (blood type)", "a button blood type"),
        ("keycap: #", "keycap #"),
        ("e-mail", "e mail"),
        ("Tom &amp; Jerry", "tom & jerry"),
    ],
)
def test_labels(label, name):
    assert clean_label(label) == name


@pytest.mark.parametrize(
    ("name", "concept", "tone"),
    [
        ("waving-hand-medium-light-skin-tone", "waving-hand", "medium light"),
        ("kiss-medium-skin-tone-dark-skin-tone", "kiss", "medium and dark"),
        ("kiss-dark-skin-tone-dark-skin-tone", "kiss", "dark"),
        ("waving hand dark skin tone", "waving hand", "dark"),
        ("skin-care", "skin-care", None),
    ],
)
def test_skin_tones_are_split_off_and_said(name, concept, tone):
    assert split_tones(name) == (concept, tone)
    assert with_tone("hand", tone) == (f"hand {tone} skin tone" if tone else "hand")


@pytest.mark.parametrize(
    ("title", "author", "stem", "name"),
    [
        ("", "Jamin Ellis", "car_jamin_ellis_", "car"),
        ("", "Jane Doe", "old_car_jane_d_01", "old car"),
        (
            "Part of the Flat Icon Collection (Wed Aug 25 2004)",
            "D. Allen",
            "black_sum",
            "black sum",
        ),
        ("Lemon SVG theme", "x", "folder_open", "folder open"),
        ("Clipart by Nicu Buculei - bow tie 2", "Nicu Buculei", "bow_tie2", "bow tie"),
        ("Wine Corks", "Gerald G.", "wine_corks_ganson", "wine corks"),
        ("card", "x", "ace_of_spades", "ace of spades"),
        ("Salt &amp; Pepper", "x", "shaker", "salt & pepper"),
    ],
)
def test_clip_art_names(title, author, stem, name):
    assert name_of(read_words(clip_art(title, author).decode()), stem) == name


def test_words_of_an_svg():
    words = read_words(clip_art("Key", "Jane Doe", "tool", "old").decode())
    assert (words.title, words.author, words.keywords) == ("Key", "Jane Doe", ("tool", "old"))
    assert words.public_domain
    assert not read_words(clip_art("Key", "x", license="GPL").decode()).public_domain
    assert read_words("<svg/>").title == ""


@pytest.mark.parametrize("name", ["fly", "cat", "keycap one", "école"])
def test_usable(name):
    assert is_usable(name)


@pytest.mark.parametrize("name", ["", "ox", "bcd", "12345", "a 1"])
def test_not_usable(name):
    assert not is_usable(name)


def test_cleaning_twice_changes_nothing():
    for text in ("Flag: “X”", "a_b-c", "Tom &amp; Jerry's", "  #1  "):
        assert clean_text(clean_text(text)) == clean_text(text)


def test_camel_case():
    assert words_of_camel_case("ComputerDevices") == "computer devices"
    assert words_of_camel_case("Food & Drink") == "food & drink"


def test_captions_start_with_the_name_and_are_distinct():
    captions = make_captions("red apple", "outlined emoji", "food and drink", ("fruit", "apple"))
    assert captions == [
        "red apple",
        "an outlined emoji of red apple",
        "red apple, food and drink",
        "keywords: fruit, apple",
    ]
    assert make_captions("key", "flat icon") == ["key", "a flat icon of key"]
