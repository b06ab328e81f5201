"""What the caption head answers to each kind of question, against what the data says is right."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from mmfm.data.colours import dominant_colours
from mmfm.data.copies import NUMBERS, with_copies
from mmfm.data.questions import KINDS, Pair, ask
from mmfm.data.sample import Sample
from mmfm.errors import DataError, TextError
from mmfm.evaluation.words import exact_match, token_f1

_ABOUT_COPIES = "how many"


class Prompts:
    """Greedy answers to every kind of `mmfm.data.questions`, block by block.

    Colours are those of the pixels; "how many" is asked of canvases with one to six copies of the
    picture; "is there" of its own name for half of the pictures, of another's for the others. What
    is asked of a picture depends on its key alone and on the block's names.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.said: dict[str, list[str]] = {kind: [] for kind in KINDS}
        self.right: dict[str, list[str]] = {kind: [] for kind in KINDS}

    def __call__(self, block: list[Sample]) -> None:
        block = [sample for sample in block if sample.captions]
        for kind in KINDS:
            asked = [self._ask(kind, sample, block) for sample in block]
            rows = [i for i, pair in enumerate(asked) if pair is not None]
            if not rows:
                continue
            pairs: list[Pair] = [pair for pair in asked if pair is not None]
            images = [_shown(kind, block[i]) for i in rows]
            prompts = [prompt for prompt, _ in pairs]
            try:
                answers = self.model.caption(images, prompt=prompts)
            except TextError:  # some question is longer than the head reads
                answers = [self._answer(image, prompt) for image, prompt in zip(images, prompts)]
            for prompt, answer, (_, right) in zip(prompts, answers, pairs, strict=True):
                self.said[kind].append(answer.removeprefix(prompt).strip())
                self.right[kind].append(right)

    def _answer(self, image: Any, prompt: str) -> str:
        try:
            return self.model.caption(image, prompt=prompt)[0]
        except TextError:
            return prompt

    def _ask(self, kind: str, sample: Sample, block: Sequence[Sample]) -> Pair | None:
        other = None
        if kind == "is there" and _number(sample) % 2:
            chosen = block[_number(sample) // 2 % len(block)]
            other = _name(chosen)
        facts = sample.meta
        if kind in ("colour", "sentence"):
            facts = {**facts, "colours": dominant_colours(_pixels(sample))}
        elif kind == _ABOUT_COPIES:
            facts = {**facts, "count": 1 + _number(sample) % len(NUMBERS)}
        return ask(kind, _name(sample), facts, other)

    def figures(self) -> dict:
        """Of each kind: count, exact match, token F1, and what the commonest answer would get.

        Raises DataError when nothing could be asked.
        """
        found = {kind: answer_figures(self.said[kind], right) for kind, right in self.right.items()
                 if right}  # fmt: skip
        if not found:
            raise DataError("prompts need samples with captions and got none; pass captioned data")
        return found


def answer_figures(said: Sequence[str], right: Sequence[str]) -> dict[str, float]:
    """exact and token_f1 in [0, 1] of N answers; *_majority: of the commonest right answer."""
    common = Counter(right).most_common(1)[0][0]

    def mean(score: Callable[[str, Sequence[str]], float], answers: Sequence[str]) -> float:
        return sum(float(score(a, [r])) for a, r in zip(answers, right, strict=True)) / len(right)

    always = [common] * len(right)
    return {
        "num_images": len(right),
        "exact": mean(exact_match, said),
        "exact_majority": mean(exact_match, always),
        "token_f1": mean(token_f1, said),
        "token_f1_majority": mean(token_f1, always),
    }


def _name(sample: Sample) -> str:
    return sample.meta.get("name") or sample.captions[0]


def _number(sample: Sample) -> int:
    key = str(sample.meta.get("key", sample.key))
    return int(hashlib.sha256(f"question:{key}".encode()).hexdigest()[:12], 16)


def _pixels(sample: Sample) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(sample.image)).convert("RGBA"))


def _shown(kind: str, sample: Sample) -> Any:
    if kind != _ABOUT_COPIES:
        return sample.image
    number = _number(sample)
    chance = np.random.default_rng(number)
    return Image.fromarray(with_copies(_square(_pixels(sample)), 1 + number % len(NUMBERS), chance))


def _square(pixels: np.ndarray) -> np.ndarray:
    edge = min(pixels.shape[:2])
    return pixels[:edge, :edge]
