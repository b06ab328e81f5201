"""What is asked of a drawing, and what its pixels and metadata say is right."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfm.data.colours import COLOURS, dominant_colours, lab, shares
from mmfm.data.copies import NUMBERS, with_copies
from mmfm.data.questions import KINDS, PROMPTS, answer, ask, drawn, every_text

META = {
    "style": "outlined emoji", "keywords": ["a", "b"], "colours": ("red", "white"), "count": 3,
}  # fmt: skip


def drawing(*colours, size=16):
    """Equal stripes of RGB colours, opaque, with a transparent edge."""
    pixels = np.zeros((size, size, 4), np.uint8)
    for number, colour in enumerate(colours):
        step = (size - 4) // len(colours)
        pixels[2 + number * step : 2 + (number + 1) * step, 2:-2] = (*colour, 255)
    return pixels


def test_lab_has_the_published_values_of_the_primaries():
    """CIE Lab of sRGB under D65, as colour tables have it."""
    found = lab(np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]]))
    expected = [
        [53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86], [100, 0, 0],
        [0, 0, 0],
    ]  # fmt: skip
    assert found == pytest.approx(np.array(expected), abs=0.05)


@pytest.mark.parametrize(
    ("rgb", "word"),
    [
        ((230, 30, 30), "red"), ((20, 20, 20), "black"), ((250, 250, 250), "white"),
        ((120, 120, 125), "grey"), ((30, 90, 200), "blue"), ((60, 170, 70), "green"),
        ((255, 220, 60), "yellow"), ((255, 150, 20), "orange"), ((130, 70, 190), "purple"),
        ((255, 150, 190), "pink"), ((110, 65, 40), "brown"),
    ],
)  # fmt: skip
def test_plain_colours_have_their_names(rgb, word):
    assert dominant_colours(drawing(rgb)) == (word,)


def test_the_larger_area_comes_first_and_small_ones_do_not_count():
    red, blue, black = (220, 30, 40), (40, 100, 220), (0, 0, 0)
    assert dominant_colours(drawing(red, red, blue)) == ("red", "blue")
    assert dominant_colours(drawing(blue, red, blue)) == ("blue", "red")
    one_row = drawing(*[red] * 11, black)
    assert dominant_colours(one_row) == ("red",)
    assert dominant_colours(np.zeros((8, 8, 4), np.uint8)) == ()
    faint = drawing(red, blue)
    faint[2:8, :, 3] //= 16  # hardly visible, so hardly there
    assert dominant_colours(faint) == ("blue",)


@given(st.integers(0, 2**32 - 1))
def test_shares_sum_to_one(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 4), dtype=np.uint8)
    pixels[0, 0, 3] = 255
    assert shares(pixels).sum() == pytest.approx(1)
    assert set(dominant_colours(pixels)) <= set(COLOURS)


@pytest.mark.parametrize("count", range(1, 7))
def test_as_many_copies_are_on_the_canvas_as_asked(count):
    """Copies stand apart, each whole: islands of a drawing that fills its middle are counted."""
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[16:48, 16:48] = (220, 30, 40, 255)
    for seed in range(8):
        canvas = with_copies(pixels, count, np.random.default_rng(seed))
        assert canvas.shape == (64, 64, 4)
        assert islands(canvas[..., 3] > 128) == count


def islands(mask):
    left, found = {tuple(place) for place in np.argwhere(mask)}, 0
    while left:
        edge, found = [left.pop()], found + 1
        while edge:
            y, x = edge.pop()
            for near in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if near in left:
                    left.remove(near)
                    edge.append(near)
    return found


def test_the_size_of_a_copy_does_not_tell_their_number():
    pixels = drawing((220, 30, 40), size=60)
    areas = {count: {int((with_copies(pixels, count, np.random.default_rng(s))[..., 3] > 128).sum())
                     for s in range(20)} for count in (1, 2)}  # fmt: skip
    assert len(areas[1]) >= 3 and len(areas[2]) >= 2


def test_every_kind_has_its_answer():
    found = {kind: ask(kind, "apple", META) for kind in KINDS}
    assert found == {
        "name": ("", "apple"),
        "prefix": ("a drawing of", "apple"),
        "style": ("style:", "outlined emoji"),
        "keywords": ("keywords:", "a, b"),
        "sentence": ("sentence:", "a red and white outlined emoji of apple"),
        "what": ("question: what is it? answer:", "apple"),
        "colour": ("question: what colour is it? answer:", "red and white"),
        "which style": ("question: which style is it? answer:", "outlined emoji"),
        "how many": ("question: how many are there? answer:", "three"),
        "is there": ("question: is there an apple? answer:", "yes"),
    }
    assert ask("is there", "red apple", META, "dog") == ("question: is there a dog? answer:", "no")
    assert ask("is there", "red apple", META, "apple pie") is None  # there may be one


def test_what_the_data_does_not_tell_is_not_asked():
    known = {kind for kind in KINDS if ask(kind, "apple", {}) is not None}
    assert known == {"name", "prefix", "what", "is there"}
    assert answer("keywords", "apple", {"keywords": []}) is None


@given(st.randoms(use_true_random=False), st.booleans())
def test_what_is_drawn_for_training_is_right(chance: random.Random, copies):
    meta = META if copies else {k: v for k, v in META.items() if k != "count"}
    prompt, right = drawn("apple", meta, "dog", chance.random)
    if "dog" in prompt:
        assert right == "no"
    elif "is there" in prompt:
        assert right == "yes"
    elif "how many" in prompt:
        assert copies and right == "three"
    else:
        kinds = [kind for kind, ways in PROMPTS.items() if prompt in ways]
        assert right == answer(kinds[0], "apple", meta)


def test_training_asks_for_all_kinds():
    chance = random.Random(0)
    plain = {k: v for k, v in META.items() if k != "count"}
    prompts = {drawn("apple", meta, "dog", chance.random)[0]
               for _ in range(2000) for meta in (META, plain)}  # fmt: skip
    for ways in PROMPTS.values():
        for way in ways:
            assert {way.format(thing="an apple"), way.format(thing="a dog")} & prompts


def test_every_text_has_all_that_can_be_said():
    texts = every_text(["apple"], [META])
    assert {"apple", "outlined emoji", "a, b", "red and white", "yes", "no", *NUMBERS} <= set(texts)
    assert "style:" in texts
