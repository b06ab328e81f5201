"""What counts as the same picture, and which part a drawing goes to."""

import hashlib
from collections import Counter

import pytest

from data_pipelines.drawing import Drawing, split_of
from data_pipelines.duplicates import Duplicates
from data_pipelines.render import render
from tests.data_pipelines.handmade import disc


def drawing(body: str, name: str = "ball", set: str = "noto", icon: str = "x") -> Drawing:
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" width="16">{body}</svg>'
    return Drawing(
        set=set, icon=icon, name=name, concept=name, style="s", source="s", license="MIT",
        author="a", svg=svg,
    )  # fmt: skip


def rules(*drawings: Drawing) -> list[str | None]:
    duplicates = Duplicates()
    return [duplicates.rule(one, render(one, 64)) for one in drawings]


def test_equal_pixels_are_kept_once_in_the_whole_corpus():
    same = [drawing(disc("#a11")), drawing(disc("#aa1111"), name="other", set="twemoji")]
    assert rules(*same) == [None, "exact duplicate"]


def test_near_pictures_are_kept_once_per_set_and_name():
    near = disc("#a12")
    assert rules(drawing(disc("#a11")), drawing(near)) == [None, "near duplicate"]
    assert rules(drawing(disc("#a11")), drawing(near, name="other")) == [None, None]
    assert rules(drawing(disc("#a11")), drawing(near, set="twemoji")) == [None, None]


def test_other_colours_and_other_shapes_are_no_duplicates():
    square = '<path fill="#a11" d="M1 1h14v14H1z"/>'
    assert rules(drawing(disc("#a11")), drawing(disc("#1a1")), drawing(square)) == [None] * 3


def test_a_dropped_picture_is_not_remembered_for_near_ones():
    first, far = disc("#a11"), disc("#11a")
    assert rules(drawing(first), drawing(first), drawing(far)) == [None, "exact duplicate", None]


@pytest.mark.parametrize(
    ("body", "expected"),
    [(disc("#fff"), None), ("", None), ('<circle r="0.1" fill="#000"/>', None)],
)
def test_pictures_that_show_nothing_are_not_drawn(body, expected):
    assert render(drawing(body), 64) is expected


def test_rendering_keeps_alpha_aspect_and_centre():
    import io

    from PIL import Image

    wide = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 20" width="40" height="20">'
        '<path fill="#f00" d="M0 0h40v20H0z"/></svg>'
    )
    one = Drawing(**{**drawing("").__dict__, "svg": wide})
    image = Image.open(io.BytesIO(render(one, 64).png))
    assert (image.mode, image.size) == ("RGBA", (64, 64))
    assert image.getchannel("A").getbbox() == (0, 16, 64, 48)
    assert image.getpixel((32, 32)) == (255, 0, 0, 255)


def test_the_split_rule():
    """unseen by concept wins over test by key; both by the hash that design and issue state."""
    for index in range(2000):
        key, concept = f"noto:{index}", f"thing {index % 500}"
        hashes = [int(hashlib.sha256(text.encode()).hexdigest(), 16) for text in (concept, key)]
        expected = "unseen" if hashes[0] % 33 == 0 else "test" if hashes[1] % 20 == 0 else "train"
        assert split_of(key, concept) == expected


def test_a_concept_is_wholly_unseen_or_not_at_all():
    splits = [{split_of(f"s{s}:{c}", f"concept {c}") for s in range(40)} for c in range(200)]
    assert all(parts == {"unseen"} or "unseen" not in parts for parts in splits)
    counts = Counter("unseen" if parts == {"unseen"} else "seen" for parts in splits)
    assert 0 < counts["unseen"] < 20
