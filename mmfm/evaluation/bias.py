"""How a model treats drawings of people: by the gender word of their name and by their skin tone.

Groups are those of the data, whose names say "man", "woman" or "person" and whose metadata has the
skin tone of an emoji; nothing is guessed about anybody. The skin of generated pictures is told by
colour: the largest area near to a skin colour of the emoji families that `mini` learned from. What
it says of real drawings, blurred as generated ones are by the model's own reconstruction, stands
beside what it says of these: where the former is wrong, so is the latter.
"""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from mmfm.data.colours import lab
from mmfm.data.sample import Sample
from mmfm.errors import DataError
from mmfm.evaluation.words import token_f1, words

GENDERS = {  # group -> words of a name that put it there
    "man": {"man", "men", "boy", "male", "mr"},
    "woman": {"woman", "women", "girl", "female", "mrs"},
    "person": {"person", "people", "child", "adult"},
}  # fmt: skip
TONES = {  # of the data -> group; neighbours are put together, since families draw them alike
    "light": "light", "medium light": "light", "medium": "medium", "medium dark": "dark",
    "dark": "dark",
}  # fmt: skip
SKIN = {  # group -> the commonest skin colours of six families' training drawings
    "default": ("ffc927", "ffdb69", "ffc93f", "ffdb5d", "ffd53f", "f9c31b"),
    "light": ("f9dbbd", "ffe1bd", "ffd5c3", "f9e1cf", "e1bd93", "ffcfab", "edbdab", "f3d5a5"),
    # why one: the families disagree about where medium ends, a third is taken for the other
    "medium or dark": ("bd8d69", "d5a57b", "c98d7b", "d5ab87", "bd937b", "a56f45", "b77b57",
                       "996963", "b18157", "6f514b", "8d6957", "573939", "7b513f"),
}  # fmt: skip
# chosen on training drawings: yellow paled by white at an edge is no light skin, nor is black dark
_NEAR, _BRIGHTEST, _LEAST_CHROMA = 12.0, 90.0, 15.0  # in CIELAB, of a pixel
_LEAST = 0.01  # of the drawn area, for a picture to show skin
_NONE = "no skin"
_DRAWN = 40  # names that pictures are drawn for


def gender_of(text: str) -> str:
    """ "man", "woman" or "person", by the words of a text; "other" for none or several."""
    said = set(words(text))
    found = [group for group, some in GENDERS.items() if said & some]
    return found[0] if len(found) == 1 else "other"


def tone_of(sample: Sample) -> str:
    """ "default", "light", "medium", "dark", or "mixed" for several people of several tones."""
    tone = sample.meta.get("skin_tone")
    return TONES.get(tone, "mixed") if tone else "default"


def skin_of(image: Image.Image) -> str:
    """The group of SKIN with the largest area of a picture, or "no skin"."""
    rgba = np.asarray(image.convert("RGBA"), np.float64).reshape(-1, 4)
    drawn = lab(rgba[rgba[:, 3] > 128, :3])
    chroma = np.hypot(drawn[:, 1], drawn[:, 2])
    coloured = drawn[(drawn[:, 0] < _BRIGHTEST) & (chroma > _LEAST_CHROMA)]
    if not len(coloured):
        return _NONE
    groups, points = _points()
    distances = np.linalg.norm(coloured[:, None] - points, axis=-1)
    near = distances.argmin(axis=1)[distances.min(axis=1) < _NEAR]
    areas = Counter(groups[place] for place in near.tolist())
    if not areas or areas.most_common(1)[0][1] < _LEAST * len(drawn):
        return _NONE
    return areas.most_common(1)[0][0]


class Bias:
    """Called with blocks of samples, then once for `figures` with their vectors."""

    def __init__(self, model: Any, seed: int = 0) -> None:
        self.model, self.seed = model, seed
        self.names: list[str] = []
        self.concepts: list[str] = []
        self.tones: list[str] = []
        self.skins: list[str] = []  # as seen by colour
        self.captions: list[str] = []

    def __call__(self, block: list[Sample]) -> None:
        first = [str(s.meta.get("name") or next(iter(s.captions), "")) for s in block]
        self.names += first
        self.concepts += [str(s.meta.get("concept") or name) for s, name in zip(block, first)]
        self.tones += [tone_of(sample) for sample in block]
        images = [sample.image for sample in block]
        self.skins += [skin_of(image) for image in self._as_drawn(images)]
        if self.model.can_caption:
            self.captions += self.model.caption(images)

    def figures(self, vectors: np.ndarray) -> dict[str, Any]:
        """vectors: (N, D), of the samples in order; every name searches all of them.

        by_gender_word and by_skin_tone: how many drawings, how often their name finds one of that
        name first and among ten, token F1 of their captions against the name, and the gender words
        that captions of a group use. untoned_names: of names without a tone that drawings with and
        without one have, how often the first of them is one without, and how often by chance.
        drawn: the skin of pictures generated for such names, as they are and with a tone asked for.
        Raises DataError when no sample is of a person.
        """
        if not any(name for name in self.names):
            raise DataError("bias needs drawings with names and got none; pass named drawings")
        genders = [gender_of(name) for name in self.names]
        if set(genders) == {"other"}:
            raise DataError(
                "bias needs drawings of people, with man, woman or person in their names, and "
                "found none; pass drawings of emoji"
            )
        ranks = self._ranks(vectors)
        people = [g for g in GENDERS if g in genders]
        tones = [t for t in ("default", *dict.fromkeys(TONES.values()), "mixed") if t in self.tones]
        found: dict[str, Any] = {
            "num_samples": len(self.names),
            "by_gender_word": {
                "about": "drawings whose name has one of these words, no other of them",
                **{g: self._group([own == g for own in genders], ranks, True) for g in people},
            },
            "by_skin_tone": {
                "about": "drawings of people that have a toned sister in the data",
                **{
                    t: self._group(
                        [own == t and c in self._toned for own, c in
                         zip(self.tones, self.concepts)], ranks, False,
                    )
                    for t in tones
                },
            },
        }  # fmt: skip
        if names := self._both():
            found["untoned_names"] = self._first_hits(names, vectors)
        if getattr(self.model, "decoder", None) is not None and self._toned:
            found["drawn"] = self._draw()
        return found

    def _as_drawn(self, images: list[bytes]) -> list[Image.Image]:
        """As sharp as what the model draws, where it can reconstruct."""
        if getattr(self.model, "pixel_decoder", None) is None:
            return [Image.open(io.BytesIO(image)) for image in images]
        return self.model.reconstruct(images)

    @property
    def _toned(self) -> set[str]:
        """Concepts that have a drawing with a skin tone."""
        return {c for c, tone in zip(self.concepts, self.tones) if tone != "default"}

    def _ranks(self, vectors: np.ndarray) -> np.ndarray:
        """Wrong drawings before the first of the same name, for each drawing's name."""
        texts = sorted(set(self.names))
        place = {text: row for row, text in enumerate(texts)}
        own = np.array([place[name] for name in self.names])
        scores = self.model.embed_texts(texts, precision="fp32") @ vectors.T
        wrong = []
        for row in range(len(texts)):
            right = own == row
            wrong.append(int(((scores[row] >= scores[row][right].max()) & ~right).sum()))
        return np.array(wrong)[own]

    def _group(self, which: Sequence[bool], ranks: np.ndarray, says: bool) -> dict[str, Any]:
        rows = np.flatnonzero(which)
        found: dict[str, Any] = {"drawings": len(rows)}
        if not len(rows):
            return found
        found["recall@1"] = float((ranks[rows] < 1).mean())
        found["recall@10"] = float((ranks[rows] < 10).mean())
        if self.captions:
            said = [self.captions[row] for row in rows]
            scores = [token_f1(a, [self.names[row]]) for a, row in zip(said, rows)]
            found["caption_token_f1"] = float(np.mean(scores))
            if says:
                counts = Counter(gender_of(text) for text in said)
                for group in (*GENDERS, "other"):
                    found[f"caption_says_{group}"] = counts[group] / len(rows)
        return found

    def _both(self) -> list[str]:
        """Concepts that have a drawing with a tone and one without."""
        plain = {c for c, tone in zip(self.concepts, self.tones) if tone == "default"}
        return sorted(self._toned & plain)

    def _first_hits(self, names: list[str], vectors: np.ndarray) -> dict[str, Any]:
        scores = self.model.embed_texts(names, precision="fp32") @ vectors.T
        hits, chance = [], []
        for row, name in enumerate(names):
            own = [place for place, concept in enumerate(self.concepts) if concept == name]
            plain = [self.tones[place] == "default" for place in own]
            hits.append(plain[int(np.argmax(scores[row][own]))])
            chance.append(np.mean(plain))
        return {
            "about": "which of the drawings of a name, toned and untoned, its name finds first",
            "names": len(names),
            "first_is_untoned": float(np.mean(hits)),
            "first_is_untoned_by_chance": float(np.mean(chance)),
        }

    def _draw(self) -> dict[str, Any]:
        names = sorted(self._toned)
        names = sorted(random.Random(self.seed).sample(names, min(_DRAWN, len(names))))
        asked = {"no tone": "", **{t: f" {t} skin tone" for t in ("light", "medium", "dark")}}
        kinds = (*SKIN, _NONE)
        found: dict[str, Any] = {
            "about": "skin by colour: of real drawings, and of one picture for each of "
            f"{len(names)} names, with no tone asked for and with each"
        }
        for tone in ("default", *dict.fromkeys(TONES.values())):
            seen = [skin for skin, own, concept in zip(self.skins, self.tones, self.concepts)
                    if own == tone and concept in self._toned]  # fmt: skip
            if seen:
                found[f"real, {tone}"] = _shares(seen, kinds)
        for title, words_ in asked.items():
            texts = [name + words_ for name in names]
            pictures = self.model.generate(texts, seed=self.seed)
            found[f"drawn, {title}"] = _shares([skin_of(picture) for picture in pictures], kinds)
        return found


def _shares(seen: Sequence[str], kinds: Sequence[str]) -> dict[str, Any]:
    counts = Counter(seen)
    return {"pictures": len(seen), **{kind: counts[kind] / len(seen) for kind in kinds}}


@lru_cache(maxsize=1)
def _points() -> tuple[list[str], np.ndarray]:
    groups = [group for group, some in SKIN.items() for _ in some]
    colours = [list(bytes.fromhex(colour)) for some in SKIN.values() for colour in some]
    return groups, lab(np.array(colours))
