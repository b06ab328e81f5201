"""From noise to a map: the noise levels of a run, and the solvers that follow the flow along them.

Heun and UniPC are diffusers' flow-matching schedulers. Euler is one line and is written here, bit
for bit what diffusers' FlowMatchEulerDiscreteScheduler gives (a test compares them): importing
diffusers takes longer than importing torch, and a first picture should not wait for it.

Noise comes from one CPU generator per picture, so picture i of a seed starts the same
whatever the batch and the device; the rest is equal up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfm.decoder.flow import shift_sigma, velocity

Predict = Callable[[Tensor, Tensor], Tensor]  # x_t (B, C, h, w), t (B,) -> the clean map
Step = Callable[[Tensor, Tensor], Tensor]  # -velocity, x_t -> x at the next level
Solver = tuple[Tensor, Step]  # the noise level of each evaluation, and the step after it


def picture_seed(seed: int, image: int, candidate: int = 0) -> int:
    """The seed of one picture: it does not depend on how many others are drawn."""
    state = np.random.SeedSequence((seed, image, candidate)).generate_state(1, np.uint64)
    return int(state[0] >> 1)


def noise(seeds: list[int], shape: tuple[int, ...]) -> Tensor:
    """(len(seeds), *shape) standard normal noise, row i from seeds[i] alone."""
    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
    return torch.stack(rows)


def noise_levels(num_steps: int, shift: float, strength: float = 1.0) -> Tensor:
    """Falling noise levels sigma, float32, the last 0: evenly spaced, then shifted.

    strength: where they begin, 1 = pure noise; below 1 they are num_steps * strength, rounded up;
    at 0 there is the 0 alone.
    """
    count = math.ceil(num_steps * strength - 1e-9)
    even = np.linspace(strength, strength / max(count, 1), count).astype(np.float32)
    sigmas = torch.from_numpy(even)
    return torch.cat([shift_sigma(sigmas, shift), torch.zeros(1)])


def euler(sigmas: Tensor) -> Solver:
    """One evaluation a step; exact where the paths are straight."""
    step = iter(sigmas.diff())
    return sigmas[:-1], lambda against, x: x + next(step) * against


def heun(sigmas: Tensor) -> Solver:
    """Two evaluations a step but the last: 2 n - 1 for n (Karras et al., 2206.00364)."""
    from diffusers.schedulers.scheduling_flow_match_heun_discrete import (
        FlowMatchHeunDiscreteScheduler,
    )

    scheduler = FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(len(sigmas) - 1)
    # why set by hand: this scheduler has no argument for levels and shifts its own twice
    inner = sigmas[1:-1].repeat_interleave(2)
    scheduler.sigmas = torch.cat([sigmas[:1], inner, sigmas[-1:]])
    scheduler.timesteps = scheduler.sigmas[:-1] * scheduler.config.num_train_timesteps
    return scheduler.sigmas[:-1], _diffusers(scheduler)


def unipc(sigmas: Tensor) -> Solver:
    """One evaluation a step, of second order by what the steps before it said (2302.04867)."""
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    scheduler.set_timesteps(sigmas=sigmas[:-1].double().numpy())
    return scheduler.sigmas[:-1], _diffusers(scheduler)


SAMPLERS: dict[str, Callable[[Tensor], Solver]] = {"euler": euler, "heun": heun, "unipc": unipc}


def _diffusers(scheduler: Any) -> Step:
    scheduler.set_begin_index(0)  # why: times that round to the same number are told apart by it
    times = iter(scheduler.timesteps)
    return lambda against, x: scheduler.step(against, next(times), x, return_dict=False)[0]


def sample(
    predict: Predict, x: Tensor, sigmas: Tensor, solver: Callable[[Tensor], Solver] = euler,
    progress: Callable[[int, int, Tensor], None] | None = None,
) -> Tensor:  # fmt: skip
    """Follow the flow from x (B, C, h, w), at the noise level sigmas[0], to data.

    progress: told the evaluations done, how many there will be, and the clean map predicted last.
    """
    if len(sigmas) < 2:
        return x
    levels, step = solver(sigmas)
    for done, sigma in enumerate(levels.tolist(), start=1):
        t = torch.full((len(x),), 1.0 - sigma, device=x.device)
        clean = predict(x, t)
        # the schedulers count from data to noise: their velocity is the negative of ours
        x = step(-velocity(clean, x, t, min_sigma=0.0), x)
        if progress is not None:
            progress(done, len(levels), clean)
    return x
