"""How a picture is to be drawn: every setting that has nothing to do with what it shows."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from mmfm.decoder.guidance import ALWAYS
from mmfm.decoder.sampler import SAMPLERS
from mmfm.errors import InputError

FEW = "few"  # the sampler's name of the distilled mode
OUTPUTS = ("pil", "np", "pt")
PRECISIONS = ("auto", "fp32", "bf16")
_WHOLE = {"num_images": 1, "num_steps": 1, "rerank": 1, "seed": 0}  # setting -> its least value


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a callback is told while pictures are drawn.

    done, total: evaluations of the network. first: the row of the first picture that is being
    drawn. preview(): what is being drawn as it would come out now, a list of Pillow images.
    """

    done: int
    total: int
    first: int
    preview: Callable[[], list]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The settings of `generate` and its siblings, checked.

    num_steps: of the sampler, one of "euler", "heun" (two evaluations a step), "unipc", or "few",
    the distilled mode of a model that has one, with its own number of steps and no guidance.
    guidance_scale, image_guidance_scale: of what the text and the picture ask for; 1 = none.
    guidance_interval: of flow time, 0 = noise to 1 = picture, in which there is guidance.
    strength: of the noise a picture is started from: 0 leaves it, 1 forgets it.
    noise_level: of the noise on vectors before they are read, which makes them vaguer: 0 to 1.
    seed: picture i of a seed is the same in any batch; None draws one. rerank: draw so many for
    each picture and keep the best by the model's own vectors. height, width: in pixels, None =
    the model's own. output: "pil", "np" (N, H, W, 3) uint8, or "pt" (N, 3, H, W) in [-1, 1].
    precision: "fp32", "bf16", or "auto", which takes bf16 where it is faster and gives the same
    pictures (precision.py). callback: told a `Progress` after each evaluation.
    """

    num_images: int = 1
    num_steps: int = 25
    sampler: str = "euler"
    guidance_scale: float = 1.0
    image_guidance_scale: float | None = None
    guidance_interval: tuple[float, float] = ALWAYS
    strength: float = 1.0
    noise_level: float = 0.0
    seed: int
    rerank: int = 1
    height: int | None = None
    width: int | None = None
    output: str = "pil"
    precision: str = "auto"
    progress: bool = False
    callback: Callable[[Progress], Any] | None = None

    @classmethod
    def of(cls, defaults: Mapping[str, Any], asked: Mapping[str, Any]) -> Sampling:
        """What is asked for (None = not asked), else the model's defaults, else those above.

        Raises InputError on an unknown setting, with the nearest names, or an impossible value.
        """
        known = [field.name for field in fields(cls)]
        for name in asked:
            if name not in known:
                near = difflib.get_close_matches(name, known) or known
                raise InputError(f"drawing has no setting {name!r}; there are {', '.join(near)}")
        values = {name: value for name, value in defaults.items() if name in known}
        values |= {name: value for name, value in asked.items() if value is not None}
        if "seed" not in values:
            values["seed"] = int(np.random.SeedSequence().generate_state(1)[0])
        return cls(**values)

    def __post_init__(self) -> None:
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or value < least:
                raise InputError(f"{name} is {value}, wanted a whole number, at least {least}")
        choices = {"sampler": (*SAMPLERS, FEW), "output": OUTPUTS, "precision": PRECISIONS}
        for name, wanted in choices.items():
            if getattr(self, name) not in wanted:
                raise InputError(
                    f"{name} is {getattr(self, name)!r}, wanted one of {', '.join(wanted)}"
                )
        for name in ("strength", "noise_level"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}, wanted 0 to 1")
        for name in ("guidance_scale", "image_guidance_scale"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise InputError(f"{name} is {value}, wanted a number, at least 0 (1 = none)")
        low, high = self.guidance_interval
        if not 0 <= low <= high <= 1:
            raise InputError(
                f"guidance_interval is {self.guidance_interval}, wanted two rising times from 0 "
                "(noise) to 1 (picture)"
            )

    @property
    def solver(self) -> str:
        """The name in SAMPLERS."""
        return "euler" if self.sampler == FEW else self.sampler
