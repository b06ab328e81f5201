"""From noise to a map: diffusers' flow-matching Euler scheduler around any predictor.

Noise comes from one CPU generator per picture, so picture i of a seed starts the same
whatever the batch and the device; the rest is equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mmfm.decoder.flow import velocity


def picture_seed(seed: int, image: int, candidate: int = 0) -> int:
    """The seed of one picture: it does not depend on how many others are drawn."""
    state = np.random.SeedSequence((seed, image, candidate)).generate_state(1, np.uint64)
    return int(state[0] >> 1)


def noise(seeds: list[int], shape: tuple[int, ...]) -> Tensor:
    """(len(seeds), *shape) standard normal noise, row i from seeds[i] alone."""
    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
    return torch.stack(rows)


def sample(
    predict: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    num_steps: int,
    shift: float,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Follow the flow from noise x (B, C, h, w) to data in `num_steps` Euler steps.

    predict(x_t, t (B,)) gives the clean map. `progress` is told the number of steps done.
    """
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / num_steps, num_steps))
    for done, (sigma, step) in enumerate(
        zip(scheduler.sigmas[:-1], scheduler.timesteps, strict=True), start=1
    ):
        t = torch.full((len(x),), 1.0 - float(sigma), device=x.device)
        # the scheduler counts from data to noise: its velocity is the negative of ours
        x = scheduler.step(
            -velocity(predict(x, t), x, t, min_sigma=0.0), step, x, return_dict=False
        )[0]
        if progress is not None:
            progress(done)
    return x


def guided(
    network: Callable, condition, unconditional, guidance_scale: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """Classifier-free guidance (2207.12598) on the predicted clean map, both in one pass."""
    if guidance_scale == 1.0:
        return lambda x, t: network(x, t, condition)
    both = type(condition).stack([condition, unconditional])

    def predict(x: Tensor, t: Tensor) -> Tensor:
        with_it, without = network(x.repeat(2, 1, 1, 1), t.repeat(2), both).chunk(2)
        return without + guidance_scale * (with_it - without)

    return predict
