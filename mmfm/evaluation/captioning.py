"""Captions against what people called the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmfm.data.sample import Sample
from mmfm.errors import DataError
from mmfm.evaluation.cider import cider_d
from mmfm.evaluation.words import exact_match, token_f1


def caption_figures(
    candidates: Sequence[str], names: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Means over images: exact match and token F1 in [0, 1], CIDEr-D in [0, 10].

    exact, token_f1, cider_d: against all references (`names[i]` among them); exact_name and
    token_f1_name: against the name alone. token_f1_shuffled: every caption against the references
    of the next image, which is what captions without an image would get.
    """
    every = [[name, *texts] for name, texts in zip(names, references, strict=True)]
    shifted = every[1:] + every[:1]
    count = len(candidates)

    def mean(values) -> float:
        return float(sum(values) / count)

    return {
        "exact": mean(map(exact_match, candidates, every)),
        "exact_name": mean(exact_match(c, [n]) for c, n in zip(candidates, names, strict=True)),
        "token_f1": mean(map(token_f1, candidates, every)),
        "token_f1_name": mean(token_f1(c, [n]) for c, n in zip(candidates, names, strict=True)),
        "token_f1_shuffled": mean(map(token_f1, candidates, shifted)),
        "cider_d": mean(cider_d(candidates, [_distinct(texts) for texts in every])),
    }


def _distinct(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))


class Captioning:
    """Greedy captions of every captioned sample, block by block, scored by `caption_figures`.

    The name is meta["name"], or the first caption where there is none.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.candidates: list[str] = []
        self.names: list[str] = []
        self.references: list[tuple[str, ...]] = []

    def __call__(self, block: list[Sample]) -> None:
        captioned = [sample for sample in block if sample.captions]
        if captioned:
            self.candidates += self.model.caption([sample.image for sample in captioned])
            self.names += [sample.meta.get("name") or sample.captions[0] for sample in captioned]
            self.references += [sample.captions for sample in captioned]

    def figures(self) -> dict:
        """Raises DataError when no sample had a caption."""
        if not self.candidates:
            raise DataError(
                "captioning needs samples with captions and got none; pass captioned data"
            )
        figures = caption_figures(self.candidates, self.names, self.references)
        counts = {"num_images": len(self.candidates), "num_distinct": len(set(self.candidates))}
        return {**counts, **figures}
