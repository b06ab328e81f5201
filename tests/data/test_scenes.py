"""Composed scenes: the words tell where the drawings are."""

import numpy as np
import pytest

from mmfm.data.colours import dominant_colours
from mmfm.data.scenes import PAIRS, TRIPLES, compose, prompt

RED, BLUE, GREEN = (220, 30, 40), (40, 100, 220), (60, 160, 60)


def disc(colour, size=64):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    rgba = np.zeros((size, size, 4), np.uint8)
    rgba[x**2 + y**2 < (size * 0.45) ** 2] = (*colour, 255)
    return rgba


def middle(rgb, colour):
    """(x, y) of the middle of all pixels of about this colour."""
    near = np.abs(rgb.astype(int) - colour).sum(axis=-1) < 60
    y, x = np.nonzero(near)
    return x.mean(), y.mean()


@pytest.mark.parametrize("relation", PAIRS)
@pytest.mark.parametrize("seed", range(5))
def test_things_stand_where_the_words_say(relation, seed):
    scene = compose([disc(RED), disc(BLUE)], ["apple", "ball"], relation, chance(seed))
    (ax, ay), (bx, by) = middle(scene.rgb, RED), middle(scene.rgb, BLUE)
    apart = {
        "left of": bx - ax, "right of": ax - bx, "above": by - ay, "below": ay - by,
    }  # fmt: skip
    assert apart[relation] == max(apart.values()) > 20
    assert scene.captions[0] == f"an apple {relation} a ball" == prompt(["apple", "ball"], relation)


@pytest.mark.parametrize("relation", TRIPLES)
def test_two_things_beside_each_other_above_or_below_a_third(relation):
    names = ["apple", "ball", "leaves"]
    scene = compose([disc(RED), disc(BLUE), disc(GREEN)], names, relation, chance(0))
    (ax, ay), (bx, by), (cx, cy) = (middle(scene.rgb, c) for c in (RED, BLUE, GREEN))
    assert ax < cx < bx
    assert (max(ay, by) < cy) if relation == "above" else (min(ay, by) > cy)
    assert scene.captions[0] == f"an apple and a ball {relation} leaves"
    assert scene.captions[2] == f"a red apple and a blue ball {relation} green leaves"
    assert scene.captions[1].startswith(scene.captions[2] + " on ")


def test_drawings_do_not_overlap_and_lie_in_their_places():
    for seed in range(20):
        scene = compose([disc(RED), disc(BLUE)], ["a", "b"], "left of", chance(seed))
        (_, _, right, _), (left, _, _, _) = scene.places
        assert right <= left + 1
        for (x0, y0, x1, y1), colour in zip(scene.places, (RED, BLUE), strict=True):
            x, y = middle(scene.rgb, colour)
            assert x0 < x < x1 and y0 < y < y1


def test_the_ground_is_none_of_the_drawings_colours_and_is_named():
    for seed in range(20):
        scene = compose([disc(RED), disc(BLUE)], ["a", "b"], "above", chance(seed))
        assert scene.ground not in ("red", "blue", "black")
        assert scene.captions[1].endswith(f"{scene.ground} ground")
        corner = np.concatenate([scene.rgb[:3, :3], np.full((3, 3, 1), 255, np.uint8)], axis=-1)
        assert dominant_colours(corner) == (scene.ground,)


def test_a_name_that_says_a_colour_gets_no_other():
    scene = compose([disc(RED), disc(BLUE)], ["black heart", "bus"], "above", chance(0))
    assert scene.captions[2] == "a black heart above a blue bus"


def test_the_same_seed_gives_the_same_scene():
    one, two = (compose([disc(RED), disc(BLUE)], ["a", "b"], "below", chance(7)) for _ in range(2))
    assert (one.rgb == two.rgb).all() and one.captions == two.captions


def chance(seed):
    return np.random.default_rng(seed)
