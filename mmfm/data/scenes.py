"""Composed scenes: two or three drawings on one coloured ground, and words for where each stands.

"a red apple left of a dog": the words name the drawings, perhaps their colours and the ground. A
scene is a picture of its own, so nothing downstream needs to know how it was made; `places` keeps
where each drawing went, for whoever measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mmfm.data.colours import COLOURS, EXAMPLES, dominant_colours
from mmfm.data.questions import with_article

# relation -> (x, y) of the middles of the drawings, in parts of the picture's side
PAIRS = {
    "left of": ((0.26, 0.5), (0.74, 0.5)),
    "right of": ((0.74, 0.5), (0.26, 0.5)),
    "above": ((0.5, 0.26), (0.5, 0.74)),
    "below": ((0.5, 0.74), (0.5, 0.26)),
}
TRIPLES = {
    "above": ((0.26, 0.26), (0.74, 0.26), (0.5, 0.74)),
    "below": ((0.26, 0.74), (0.74, 0.74), (0.5, 0.26)),
}
_LARGEST = 0.48  # of the picture's side, a drawing's
_DRIFT = 0.1  # of the side, at most so far a drawing is from its middle across the relation
_SINGULAR = ("ss", "us", "is", "os")  # of the endings in s, those of one thing


@dataclass(frozen=True)
class Scene:
    """rgb (S, S, 3) uint8; captions, the plain one first; relation; places: boxes (left, top,
    right, bottom) in pixels, one for each name."""

    rgb: np.ndarray
    captions: tuple[str, ...]
    names: tuple[str, ...]
    relation: str
    places: tuple[tuple[int, int, int, int], ...]
    ground: str  # one of COLOURS

    def meta(self) -> dict[str, Any]:
        """What a shard keeps of it beside the captions."""
        return {
            "names": list(self.names), "relation": self.relation,
            "places": [list(place) for place in self.places], "ground": self.ground,
        }  # fmt: skip


def compose(
    drawings: Sequence[np.ndarray], names: Sequence[str], relation: str,
    chance: np.random.Generator,
) -> Scene:  # fmt: skip
    """A scene of two drawings in one of PAIRS, or three in one of TRIPLES.

    drawings: (S, S, 4) uint8 each. Sizes vary from 0.4 to 0.48 of the side, places by a tenth of
    it. The ground has none of the drawings' own colours where there is such a ground.
    """
    size = len(drawings[0])
    own = [dominant_colours(drawing) for drawing in drawings]
    ground, rgb = _ground({word for words in own for word in words}, chance)
    canvas = Image.new("RGBA", (size, size), (*rgb, 255))
    places = []
    for drawing, (x, y) in zip(drawings, middles(relation, len(drawings)), strict=True):
        edge = round(size * chance.uniform(0.4, _LARGEST))
        drift = chance.uniform(-_DRIFT, _DRIFT)
        if relation in ("above", "below"):
            x = x + drift if x == 0.5 else x
        else:
            y = y + drift
        left, top = (int(np.clip(round(size * at - edge / 2), 0, size - edge)) for at in (x, y))
        # Pillow weighs RGBA by alpha when it resizes only in the premultiplied mode
        small = Image.fromarray(drawing).convert("RGBa").resize((edge, edge), Image.Resampling.BOX)
        canvas.alpha_composite(small.convert("RGBA"), (left, top))
        places.append((left, top, left + edge, top + edge))
    coloured = said([_coloured(n, c) for n, c in zip(names, own, strict=True)], relation)
    captions = (
        prompt(names, relation), f"{coloured} on {with_article(ground)} ground", coloured,
    )  # fmt: skip
    return Scene(
        np.asarray(canvas.convert("RGB")), tuple(dict.fromkeys(captions)), tuple(names), relation,
        tuple(places), ground,
    )  # fmt: skip


def middles(relation: str, count: int) -> tuple[tuple[float, float], ...]:
    """(x, y) of the middle of each of two or three things, in parts of the picture's side."""
    return (PAIRS if count == 2 else TRIPLES)[relation]


def said(things: Sequence[str], relation: str) -> str:
    """ "a left of b" or "a and b above c"."""
    return f"{' and '.join(things[:-1])} {relation} {things[-1]}"


def prompt(names: Sequence[str], relation: str) -> str:
    """How evaluation asks for a scene: the plain caption of `compose`."""
    return said([with_article(n) if _takes_article(n) else n for n in names], relation)


def _takes_article(name: str) -> bool:
    return not name.endswith("s") or name.endswith(_SINGULAR)


def _coloured(name: str, colours: Sequence[str]) -> str:
    """The name with its largest colour, unless it says a colour already."""
    if not colours or set(COLOURS) & set(name.split()):
        return with_article(name) if _takes_article(name) else name
    return with_article(f"{colours[0]} {name}") if _takes_article(name) else f"{colours[0]} {name}"


def _ground(taken: set[str], chance: np.random.Generator) -> tuple[str, tuple[int, int, int]]:
    """A colour word and a colour that has it."""
    free = [word for word in COLOURS if word not in taken and word != "black"] or ["white"]
    word = "white" if "white" in free and chance.random() < 0.25 else str(chance.choice(free))
    examples = EXAMPLES[word]
    red, green, blue = bytes.fromhex(examples[int(chance.integers(len(examples)))])
    return word, (red, green, blue)
