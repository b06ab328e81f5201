"""There and back: is a generated picture captioned by its prompt, and found by it?

Both answers come from the model's own heads and tower, which a shapeless picture can please. They
say whether the skills agree; only the judge (`generation.py`) says whether a picture is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmfm.data.sample import Sample
from mmfm.evaluation.generation import Generation, shuffled
from mmfm.evaluation.retrieval import recall_at_k
from mmfm.evaluation.words import exact_match, token_f1


class Cycle:
    """Captions and retrieval of the pictures that a `Generation` drew, beside the real ones."""

    def __init__(self, model: Any, generation: Generation) -> None:
        self.model, self.generation = model, generation
        self.captions: list[str] = []  # of the real drawings, in the order of generation.names
        self.vectors: list[np.ndarray] = []

    def __call__(self, block: list[Sample]) -> None:
        images = [sample.image for sample, _ in self.generation.known(block)]
        if images:
            self.captions += self.model.caption(images)
            self.vectors.append(self.model.embed_images(images, precision="fp32"))

    def figures(self) -> dict:
        """token_f1, exact: greedy captions of generated pictures against their prompts; real_*: of
        real drawings against their names (the ceiling); shuffled_*: against other prompts (chance).

        own_tower_recall@k: the prompt finds a picture drawn for it first, or among k, in a gallery
        of all generated pictures; own_tower_real_recall@k: the same with the real drawings.
        """
        asked, prompts = self.generation, self.generation.prompts
        said = self.model.caption(asked.pictures)
        real_said = [self.captions[row] for row in asked.rows]
        real_vectors = np.concatenate(self.vectors)[asked.rows]
        return {
            "num_pictures": len(prompts),
            "seed": asked.seed,
            **asked.settings,
            **_agreement(said, prompts),
            **{f"real_{name}": value for name, value in _agreement(real_said, prompts).items()},
            "shuffled_token_f1": _agreement(said, _others(prompts))["token_f1"],
            "num_distinct_captions": len(set(said)),
            **self._found(prompts, self.model.embed_images(asked.pictures, precision="fp32"), ""),
            **self._found(prompts, real_vectors, "real_"),
        }

    def _found(self, prompts: list[str], vectors: np.ndarray, kind: str) -> dict[str, float]:
        texts = sorted(set(prompts))
        found = recall_at_k(
            self.model.embed_texts(texts, precision="fp32"), vectors, texts, prompts
        )
        start = "text_to_image_recall"
        return {
            key.replace(start, f"own_tower_{kind}recall"): value
            for key, value in found.items()
            if key.startswith(start) and not (kind and key.endswith("_chance"))
        }


def _agreement(said: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    pairs = list(zip(said, names, strict=True))
    return {
        "token_f1": float(np.mean([token_f1(caption, [name]) for caption, name in pairs])),
        "exact": float(np.mean([exact_match(caption, [name]) for caption, name in pairs])),
    }


def _others(prompts: list[str]) -> list[str]:
    names = sorted(set(prompts))
    places = {name: place for place, name in enumerate(names)}
    return [names[place] for place in shuffled(np.array([places[one] for one in prompts]))]
