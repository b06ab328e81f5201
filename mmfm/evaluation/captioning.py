"""Captions against what people called the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmfm.data.sample import Sample
from mmfm.errors import DataError
from mmfm.evaluation.bleu import bleu
from mmfm.evaluation.cider import cider_d
from mmfm.evaluation.words import exact_match, token_f1


def caption_figures(
    candidates: Sequence[str], names: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Means over images: exact match and token F1 in [0, 1], CIDEr-D in [0, 10]; BLEU of the set.

    exact, token_f1, cider_d, bleu_1, bleu_4: against all references (`names[i]` among them);
    exact_name and token_f1_name: against the name alone. token_f1_shuffled: every caption against
    the references of the next image, which is what captions without an image would get.
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
        "bleu_1": bleu(candidates, every, 1),
        "bleu_4": bleu(candidates, every),
    }


def _distinct(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))


class Captioning:
    """Greedy captions of every captioned sample, block by block, scored by `caption_figures`.

    The name is meta["name"], or the first caption where there is none. The head reads a picture by
    both ports; `ports` has the same figures for each alone.
    """

    def __init__(self, model: Any, ports: Sequence[str] = ("grid", "pooled")) -> None:
        self.model = model
        self.candidates: dict[str, list[str]] = {port: [] for port in ("both", *ports)}
        self.names: list[str] = []
        self.references: list[tuple[str, ...]] = []

    def __call__(self, block: list[Sample]) -> None:
        captioned = [sample for sample in block if sample.captions]
        if captioned:
            images = [sample.image for sample in captioned]
            for port, said in self.candidates.items():
                said += self.model.caption(images, ports=port)
            self.names += [sample.meta.get("name") or sample.captions[0] for sample in captioned]
            self.references += [sample.captions for sample in captioned]

    def figures(self) -> dict:
        """Raises DataError when no sample had a caption."""
        if not self.names:
            raise DataError(
                "captioning needs samples with captions and got none; pass captioned data"
            )
        found = {
            port: caption_figures(said, self.names, self.references)
            for port, said in self.candidates.items()
        }
        both = found.pop("both")
        distinct = len(set(self.candidates["both"]))
        counts = {"num_images": len(self.names), "num_distinct": distinct}
        return {**counts, **both, "ports": found}
