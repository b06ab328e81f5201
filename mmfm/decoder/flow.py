"""The flow between noise and data: its path, its times, its loss.

t runs from 0 (noise) to 1 (data): x_t = (1 - t) x_0 + t x_1, with x_0 standard normal noise and
x_1 the clean map; velocity = x_1 - x_0. diffusers' schedulers count sigma = 1 - t the other way.
What the network hands on is always the clean map x_1. By default it also computes it directly
(x-prediction, JiT, 2511.13720: the clean map lies on a low-dimensional manifold that a small
network can represent, noise does not); DecoderConfig.prediction "v" lets it compute the velocity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmfm.errors import InputError

MIN_SIGMA = 0.05  # below this much noise the loss does not weigh errors up any further
# why so few: of thousands of dimensions a bit that all of them tell, such as which of two things is
# on the left, can be read through the noise once t is above 2 / sqrt(dimensions), 0.03 for 4,096;
# only before that must the network decide it by the text
FIRST_TIMES = 0.06


def interpolate(x_0: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
    """x_t (B, C, h, w) between noise x_0 and data x_1 at times t (B,)."""
    t = t[:, None, None, None]
    return (1 - t) * x_0 + t * x_1


def velocity(predicted: Tensor, x_t: Tensor, t: Tensor, min_sigma: float = MIN_SIGMA) -> Tensor:
    """dx/dt implied by a predicted clean map: (x_1 - x_t) / (1 - t), t (B,).

    min_sigma bounds the division; the loss needs the bound, a sampler does not, since it
    multiplies by a step that shrinks with sigma.
    """
    sigma = (1 - t).clamp(min=min_sigma)[:, None, None, None]
    return (predicted - x_t) / sigma


def clean(velocity: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The clean map that a velocity implies, x_t + (1 - t) dx/dt: the inverse of `velocity`."""
    return x_t + (1 - t)[:, None, None, None] * velocity


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Move noise levels up for maps of more dimensions (SD3, 2403.03206, eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def unshift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """The inverse of `shift_sigma`."""
    return sigma / (shift - (shift - 1) * sigma)


@dataclass(frozen=True, kw_only=True)
class Times:
    """Which noise levels training visits, before the space's shift moves them."""

    law: str = "logit-normal"  # (SD3, 2403.03206, section 3.1), or uniform
    mean: float = 0.0  # of the logit of the noise level: above 0 = more noise
    std: float = 1.0
    start: float = 0.0  # share of samples at the first times, up to FIRST_TIMES, evenly

    def __post_init__(self) -> None:
        if self.law not in ("logit-normal", "uniform"):
            raise InputError(f"times are {self.law!r}, wanted logit-normal or uniform")
        if not 0 <= self.start <= 1:
            raise InputError(f"the share of first times is {self.start}, wanted 0 to 1")
        if not self.std > 0:
            raise InputError(f"the times' std is {self.std}, wanted more than 0")


LOGIT_NORMAL = Times()


def sample_times(
    count: int, shift: float, generator: torch.Generator | None = None, times: Times = LOGIT_NORMAL
) -> Tensor:
    """(count,) training times in [0, 1]: noise levels by their law, then shifted."""
    if times.law == "uniform":
        sigma = torch.rand(count, generator=generator)
    else:
        logit = torch.randn(count, generator=generator)
        sigma = torch.sigmoid(times.mean + times.std * logit)
    t = 1 - shift_sigma(sigma, shift)
    if times.start:
        first = torch.rand(2, count, generator=generator)
        t = torch.where(first[0] < times.start, FIRST_TIMES * first[1], t)
    return t


def flow_loss(predicted: Tensor, x_0: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
    """Mean squared error of the velocity that `predicted` (B, C, h, w) implies; a scalar."""
    implied = velocity(predicted, interpolate(x_0, x_1, t), t)
    return (implied - (x_1 - x_0)).square().mean()
