"""Generated pictures before an independent judge, beside real drawings of the same names.

One picture is asked for each real drawing that the judge has a class for, by that drawing's name,
so that generated and real pictures come in pairs: equal counts, equal names. The judge has never
seen the drawings (it was trained on the training split) nor the generator (`judge.py`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mmfm.data.bad import BadSamples
from mmfm.data.sample import Sample
from mmfm.errors import DataError, InputError
from mmfm.evaluation.distances import cmmd, fid
from mmfm.evaluation.judge import Judge, Look, joined
from mmfm.evaluation.samples import Samples, as_samples

Draw = Callable[[Sequence[str], Sequence[int]], Any]  # (N prompts, N seeds) -> N pictures

NUM_NOISES = 16  # different seeds, in turn: a model draws all prompts of one seed together


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How a model is asked for pictures; None = as the model is set."""

    num_prompts: int | None = None  # drawn with the seed; None = one for each drawing
    num_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None  # "few" for the few-step mode, whose steps and guidance are fixed

    def __post_init__(self) -> None:
        for name in ("num_prompts", "num_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}, wanted at least 1")

    def told(self, model: Any) -> dict[str, Any]:
        """Steps and guidance as they will be: the model's own where none are asked for."""
        own = getattr(getattr(model, "config", None), "generation", {})
        told = {"num_steps": self.num_steps, "guidance_scale": self.guidance_scale}
        if self.sampler == "few":
            config = model.config.decoder
            own = {"num_steps": config.few_steps, "guidance_scale": config.few_steps_guidance}
        sampler = {} if self.sampler is None else {"sampler": self.sampler}
        return {**{k: own.get(k) if v is None else v for k, v in told.items()}, **sampler}


def drawn_by(model: Any, asking: Asking, progress: bool = False) -> Draw:
    """`model.generate` as a `Draw`."""
    how: dict[str, Any] = {"num_steps": asking.num_steps, "guidance_scale": asking.guidance_scale}
    if asking.sampler is not None:
        how["sampler"] = asking.sampler

    def draw(prompts: Sequence[str], seeds: Sequence[int]) -> list:
        made: dict[int, Any] = {}
        for seed in sorted(set(seeds)):
            rows = [row for row, own in enumerate(seeds) if own == seed]
            some = [prompts[row] for row in rows]
            made.update(zip(rows, model.generate(some, seed=seed, progress=progress, **how)))
        return [made[row] for row in range(len(prompts))]

    return draw


def judge_generator(
    draw: Draw, samples: Samples | Sequence[Sample], *, judge: Judge | None = None,
    num_prompts: int | None = None, seed: int = 0,
) -> dict:  # fmt: skip
    """The figures of `Generation` for any callable: draw(prompts, seeds) -> pictures.

    samples: held-out drawings, a list or what `open_samples` gives. Pictures: whatever
    `load_image` takes, one for each prompt.
    """
    part = Generation(draw, judge, num_prompts=num_prompts, seed=seed)
    part(list(as_samples(samples).read(None, BadSamples())))
    return part.figures()


class Generation:
    """What a generator is asked, what it draws, and what the judge makes of both kinds.

    Called with blocks of samples, it keeps of each drawing that the judge has a class for its name
    and what the judge sees in it; the pictures are drawn when they are first needed.
    """

    def __init__(
        self, draw: Draw, judge: Judge | None = None, *, num_prompts: int | None = None,
        seed: int = 0, settings: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """judge: default the one that ships. settings: told beside the figures."""
        self.draw, self.judge = draw, judge or Judge.load()
        self.num_prompts, self.seed, self.settings = num_prompts, seed, dict(settings or {})
        self.names: list[str] = []
        self.numbers: list[int] = []
        self.looks: list[Look] = []

    def __call__(self, block: list[Sample]) -> None:
        known = self.known(block)
        if known:
            self.names += [self.judge.classes[number] for _, number in known]
            self.numbers += [number for _, number in known]
            self.looks.append(self.judge.look([sample.image for sample, _ in known]))

    def known(self, block: list[Sample]) -> list[tuple[Sample, int]]:
        """The samples that the judge has a class for, each with the number of its class."""
        found = [(sample, self.judge.class_of(sample)) for sample in block]
        return [(sample, number) for sample, number in found if number is not None]

    @cached_property
    def rows(self) -> list[int]:
        """Which of the known drawings are asked for, in order. Raises DataError without any."""
        if not self.names:
            raise DataError(
                f"generation needs drawings of the {len(self.judge.classes)} concepts that the "
                "judge knows, by name, and found none; pass drawings of emoji"
            )
        every = range(len(self.names))
        if self.num_prompts is None or self.num_prompts >= len(every):
            return list(every)
        return sorted(random.Random(self.seed).sample(every, self.num_prompts))

    @property
    def prompts(self) -> list[str]:
        """Names of the drawings at `rows`."""
        return [self.names[row] for row in self.rows]

    @cached_property
    def pictures(self) -> list:
        """One generated picture for each prompt. Raises InputError when the count is another."""
        prompts = self.prompts
        pictures = list(self.draw(prompts, seeds_of(prompts, self.seed)))
        if len(pictures) != len(prompts):
            raise InputError(f"asked for {len(prompts)} pictures and got {len(pictures)}")
        return pictures

    @cached_property
    def look(self) -> Look:
        """What the judge sees in the generated pictures."""
        return self.judge.look(self.pictures)

    def figures(self) -> dict:
        """Fractions named right at once and among five, and the mean probability of the right
        class: generated, real (the ceiling), and generated against other prompts' names (chance).

        share_of_real_*: of the ceiling. fid, cmmd: generated against real pictures, in the judge's
        features. *_halves: generated pictures of one half of the prompts against real ones of the
        other; *_halves_real: real against real, what a perfect generator would get (the floor).
        """
        rows = self.rows  # before the looks: it says when there are none
        real, made = _rows(joined(self.looks), rows), self.look
        wanted = np.array([self.numbers[row] for row in rows])
        ours, ceiling, chance = (
            _naming(look, classes)
            for look, classes in ((made, wanted), (real, wanted), (made, shuffled(wanted)))
        )
        shares = {
            f"share_of_real_{k}": ours[k] / ceiling[k] if ceiling[k] else None
            for k in ("top1", "top5")
        }
        return {
            "judge_hash": self.judge.hash,
            "num_classes": len(self.judge.classes),
            "num_pictures": len(wanted),
            "num_prompts": len(set(wanted.tolist())),
            "seed": self.seed,
            **self.settings,
            **ours,
            **{f"real_{name}": value for name, value in ceiling.items()},
            **shares,
            **{f"shuffled_{name}": value for name, value in chance.items()},
            **_distances(made.features, real.features, self.seed),
        }


def seeds_of(prompts: Sequence[str], seed: int) -> list[int]:
    """A seed for each prompt: `seed` and the next fifteen in turn; no prompt has one twice."""
    used: set[tuple[str, int]] = set()
    seeds = []
    for place, prompt in enumerate(prompts):
        number = place % NUM_NOISES
        while (prompt, number) in used:
            number += 1
        used.add((prompt, number))
        seeds.append(seed + number)
    return seeds


def shuffled(classes: np.ndarray) -> np.ndarray:
    """The same classes in an order in which each place has another one, where that is possible."""
    order = np.argsort(classes, kind="stable")
    most = max(Counter(classes.tolist()).values())
    moved = np.empty_like(classes)
    moved[order] = np.roll(classes[order], most)
    return moved


def _naming(look: Look, classes: np.ndarray) -> dict[str, float]:
    ranks = look.ranks(classes)
    return {
        "top1": float((ranks < 1).mean()),
        "top5": float((ranks < 5).mean()),
        "probability": float(look.chances(classes).mean()),
    }


def _rows(look: Look, rows: list[int]) -> Look:
    return Look(look.probabilities[rows], look.features[rows])


def _distances(made: np.ndarray, real: np.ndarray, seed: int) -> dict[str, float | None]:
    """FID and CMMD as `Generation.figures` tells; None where there are too few pictures."""
    order = np.random.default_rng(seed).permutation(len(real))
    one, other = np.array_split(order, 2)
    figures: dict[str, float | None] = {}
    for name, distance, least in (("fid", fid, 2), ("cmmd", cmmd, 1)):
        pairs = {
            name: (made, real),
            f"{name}_halves": (made[one], real[other]),
            f"{name}_halves_real": (real[one], real[other]),
        }
        for key, (a, b) in pairs.items():
            figures[key] = distance(a, b) if min(len(a), len(b)) >= least else None
    return figures
