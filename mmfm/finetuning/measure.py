"""The same figures before and after: retrieval, captions and generation of one set of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mmfm.data.sample import Sample
from mmfm.evaluation import retrieval
from mmfm.evaluation.captioning import Captioning
from mmfm.evaluation.distances import cmmd
from mmfm.evaluation.gathered import gather
from mmfm.evaluation.judge import Judge
from mmfm.evaluation.retrieval import recall_at_k
from mmfm.model import MMFM

_LEAST_KNOWN = 8  # pictures that the judge must have a name for
_NOISES = 4


@dataclass(frozen=True)
class Measured:
    """figures: of each skill that the model has. The rest is for the eyes.

    said: a caption of each captioned sample. drawn: pictures for `prompts`.
    """

    figures: dict[str, dict[str, Any]]
    said: list[str]
    prompts: list[str]
    drawn: list[Image.Image]


def measure(
    model: MMFM, samples: Sequence[Sample], *, num_drawn: int, judge: Judge, seed: int = 0
) -> Measured:
    """Every figure of a model on samples; those without a caption serve nothing here."""
    samples = [sample for sample in samples if any(map(str.strip, sample.captions))]
    figures: dict[str, dict[str, Any]] = {}
    said: list[str] = []
    if len(samples) > 1:
        captioning = Captioning(model, ports=()) if model.can_caption else None
        watch = [captioning] if captioning is not None else []
        found = gather(model, iter(samples), label="category", watch=watch)
        figures["retrieval"] = retrieval(model, found, gallery=len(samples))
        if captioning is not None:
            figures["captions"] = {k: v for k, v in captioning.figures().items() if k != "ports"}
            said = captioning.candidates["both"]
    chosen = samples[:num_drawn]
    prompts = [sample.captions[0] for sample in chosen]
    drawn: list[Image.Image] = []
    if model.decoder is not None and prompts:
        drawn = draw(model, prompts, seed)
        figures["generation"] = generation(model, drawn, chosen, judge, seed)
    return Measured(figures, said, prompts, drawn)


def draw(model: MMFM, prompts: Sequence[str], seed: int) -> list[Image.Image]:
    """One picture for each prompt, by four fixed seeds in turn: few, to draw many at once."""
    seeds = [seed + place % _NOISES for place in range(len(prompts))]
    made: dict[int, Image.Image] = {}
    for number in sorted(set(seeds)):
        rows = [row for row, own in enumerate(seeds) if own == number]
        pictures = model.generate([prompts[row] for row in rows], seed=number)
        made.update(zip(rows, pictures, strict=True))
    return [made[row] for row in range(len(prompts))]


def generation(
    model: MMFM, drawn: Sequence[Image.Image], samples: Sequence[Sample], judge: Judge, seed: int
) -> dict[str, Any]:
    """cmmd: of drawn pictures to the real ones of the same captions, in the judge's features (lower
    is nearer). own_tower_recall@1: the caption finds its drawn picture, by the model's own towers.
    judge_top1: the share that the judge names right, where it knows at least 8 of the names.
    """
    prompts = [sample.captions[0] for sample in samples]
    real, made = judge.look([s.image for s in samples]), judge.look(list(drawn))
    texts = sorted(set(prompts))
    found = recall_at_k(
        model.embed_texts(texts, precision="fp32"),
        model.embed_images(list(drawn), precision="fp32"), texts, prompts,
    )  # fmt: skip
    figures: dict[str, Any] = {
        "num_pictures": len(drawn),
        "seed": seed,
        "judge_hash": judge.hash,
        "cmmd": cmmd(made.features, real.features),
        "own_tower_recall@1": found["text_to_image_recall@1"],
        "own_tower_recall@1_chance": found["text_to_image_recall@1_chance"],
    }
    known = [(row, number) for row, sample in enumerate(samples)
             if (number := judge.class_of(sample)) is not None]  # fmt: skip
    if len(known) >= _LEAST_KNOWN:
        rows, classes = (np.array(one) for one in zip(*known))
        for name, look in (("judge_top1", made), ("judge_top1_real", real)):
            best = look.probabilities[rows].argmax(axis=1)
            figures[name] = float((best == classes).mean())
        figures["judge_num"] = len(known)
    return figures
