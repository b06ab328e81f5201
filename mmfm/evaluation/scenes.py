"""Composed scenes before the independent judge: are both things there, and where they belong?

The judge names single drawings, so it looks through windows of half the picture's side, brought to
its own size. A thing is recognised when the judge finds its name through some window, and stands
where it is likeliest. Nothing of this knows where the things should be, so the same rule measures
generated scenes, real ones of the same names (the ceiling) and other prompts' scenes (chance).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmfm.data.sample import Sample
from mmfm.data.scenes import PAIRS, prompt
from mmfm.errors import DataError, InputError
from mmfm.evaluation.generation import Draw, seeds_of
from mmfm.evaluation.judge import Judge
from mmfm.preprocess.images import load_image, to_pixels

_PLACES = 5  # of a window along each side, a quarter of its own edge apart
_AXIS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}


class Scenes:
    """What a generator is asked for, what it draws, and what the judge makes of both kinds.

    Called with blocks of samples, it keeps the scenes of two things whose names the judge knows;
    pictures are drawn when the figures are asked for.
    """

    def __init__(
        self,
        draw: Draw,
        judge: Judge | None = None,
        *,
        num_prompts: int | None = None,
        seed: int = 0,
        settings: dict[str, Any] | None = None,
    ) -> None:
        """draw: (prompts, seeds) -> pictures. num_prompts: so many scenes, drawn with the seed;
        None = all. settings: told beside the figures."""
        self.draw, self.judge = draw, judge or Judge.load()
        self.num_prompts, self.seed, self.settings = num_prompts, seed, dict(settings or {})
        self.asked: list[Sample] = []
        self.numbers: list[tuple[int, int]] = []
        self.real: list[np.ndarray] = []

    def __call__(self, block: list[Sample]) -> None:
        for sample in block:
            numbers = _numbers(self.judge, sample)
            if numbers is not None:
                self.asked.append(sample)
                self.numbers.append(numbers)
                self.real.append(seen_through_windows(self.judge, [sample.image])[0])

    def figures(self) -> dict[str, Any]:
        """Fractions of the scenes: `both_top1`, both names are the judge's first guess through some
        window; `both`, among its five first; `one`, at least one of them is; `relation`, of the
        scenes with both, those in which the things stand as asked.

        real_*: the samples' own pictures (the ceiling). shuffled_*: the same generated pictures
        asked for other prompts' names (chance). Raises DataError without any scene, InputError
        when the generator gives another number of pictures than it was asked for.
        """
        if len(self.asked) < 2:
            raise DataError(
                "scenes need two or more pictures of two things that the judge knows, and found "
                f"{len(self.asked)}; make some with `python -m data_pipelines.scenes`"
            )
        rows = list(range(len(self.asked)))
        if self.num_prompts is not None and self.num_prompts < len(rows):
            rows = sorted(random.Random(self.seed).sample(rows, max(2, self.num_prompts)))
        numbers = np.array([self.numbers[row] for row in rows])
        metas = [self.asked[row].meta for row in rows]
        relations = [meta["relation"] for meta in metas]
        prompts = [prompt(meta["names"], meta["relation"]) for meta in metas]
        pictures = list(self.draw(prompts, seeds_of(prompts, self.seed)))
        if len(pictures) != len(prompts):
            raise InputError(f"asked for {len(prompts)} pictures and got {len(pictures)}")
        made = seen_through_windows(self.judge, pictures)
        real = np.stack([self.real[row] for row in rows])
        kinds = (
            ("", made, numbers), ("real_", real, numbers),
            ("shuffled_", made, np.roll(numbers, 1, axis=0)),
        )  # fmt: skip
        found = {
            prefix + name: value
            for prefix, seen, classes in kinds
            for name, value in _figures(seen, classes, relations).items()
        }
        return {
            "judge_hash": self.judge.hash,
            "num_scenes": len(rows),
            "seed": self.seed,
            **self.settings,
            **found,
        }


@torch.inference_mode()
def seen_through_windows(judge: Judge, images: Sequence[Any]) -> np.ndarray:
    """(N, 25, K) float32: what the judge makes of each window, row by row from the upper left.

    images: whatever `load_image` takes.
    """
    size = judge.config.image_size
    seen = []
    for image in images:
        # twice the judge's size, so that a window of half the side has exactly its size
        pixels = torch.from_numpy(to_pixels(load_image(image), 2 * size))[None]
        seen.append(judge.look_at(_windows(pixels, size)).probabilities)
    return np.stack(seen)


def _windows(pixels: Tensor, size: int) -> Tensor:
    """(1, 3, 2S, 2S) -> (25, 3, S, S)."""
    columns = F.unfold(pixels, size, stride=size // (_PLACES - 1))
    return columns[0].T.reshape(-1, 3, size, size)


def _numbers(judge: Judge, sample: Sample) -> tuple[int, int] | None:
    names, known = sample.meta.get("names", ()), judge.classes
    if len(names) != 2 or sample.meta["relation"] not in PAIRS or not set(names) <= set(known):
        return None
    return judge.number(names[0]), judge.number(names[1])


def _figures(
    seen: np.ndarray, numbers: np.ndarray, relations: Sequence[str]
) -> dict[str, float | None]:
    """numbers: (N, 2) classes."""
    rows = np.arange(len(seen))
    found, places = [], []
    for classes in numbers.T:
        own = seen[rows, :, classes]  # (N, windows)
        ranks = (seen >= own[..., None]).sum(axis=2) - 1
        found.append(ranks.min(axis=1))
        places.append(np.stack(np.divmod(own.argmax(axis=1), _PLACES)[::-1], axis=1))  # x, y
    top1, top5 = (np.stack(found, axis=1) < k for k in (1, 5))
    apart = places[0] - places[1]  # (N, 2), of the first thing from the second
    right = np.array(
        [
            _AXIS[relation][1] * way[_AXIS[relation][0]] >= max(1, np.abs(way).max())
            for way, relation in zip(apart, relations, strict=True)
        ]
    )
    both = top5.all(axis=1)
    return {
        "both_top1": float(top1.all(axis=1).mean()),
        "both": float(both.mean()),
        "one": float(top5.any(axis=1).mean()),
        "relation": float(right[both].mean()) if both.any() else None,
    }
