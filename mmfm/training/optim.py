"""The optimizer's side of a step: schedule, parameter groups, clipping, averaged weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mmfm.errors import InputError
from mmfm.training.loop_config import LoopConfig

_DECAY_SHARE = 0.2  # of a wsd run: its last fifth falls (2405.18392)


def learning_rate(step: int, config: LoopConfig) -> float:
    """Rate of the update from `step` to `step + 1`: a linear warm-up, then the schedule.

    cosine: down to `final_rate`. constant: no change. wsd: constant, then over the last fifth
    of the steps 1 - sqrt(share of the fifth) down to `final_rate` (Hagele et al., 2405.18392).
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "wsd":
        length = max(1, round(_DECAY_SHARE * config.num_steps))
        done = (step - (config.num_steps - length)) / length
        left = 1 - math.sqrt(min(1.0, max(0.0, done)))
    else:
        done = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
        left = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * left)


def rate_factors(module: nn.Module, parts: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Name of every parameter -> factor of the learning rate; 0 = frozen.

    parts: (regex, factor) in order; the first regex found in a name decides, and without any the
    factor is 1. Raises InputError for a regex that is none or that decides nothing (a typo).
    """
    rules = [(_pattern(text), float(factor)) for text, factor in parts]
    names = [name for name, _ in module.named_parameters()]
    hits = {
        name: next((i for i, (r, _) in enumerate(rules) if r.search(name)), -1) for name in names
    }
    for i, (rule, _) in enumerate(rules):
        if i not in hits.values():
            raise InputError(
                f"parts: {rule.pattern!r} decides no parameter; names look like "
                f"{', '.join(names[:: max(1, len(names) // 3)][:3])}, and the first match counts"
            )
    return {name: rules[hit][1] if hit >= 0 else 1.0 for name, hit in hits.items()}


def freeze(module: nn.Module, parts: Sequence[tuple[str, float]]) -> None:
    """No gradient for the parameters whose factor is 0. Raises InputError when none is left."""
    factors = rate_factors(module, parts)
    for name, parameter in module.named_parameters():
        if factors[name] == 0:
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in module.parameters()):
        raise InputError("every parameter is frozen; leave one in `parts` with a factor above 0")


def parameter_groups(
    module: nn.Module, weight_decay: float, parts: Sequence[tuple[str, float]] = ()
) -> list[dict[str, Any]]:
    """Groups for the optimizer, each with the `factor` of its learning rate.

    Matrices and kernels decay; biases, norms and single vectors do not. Frozen ones are left out.
    """
    factors = rate_factors(module, parts)
    groups: dict[tuple, dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decay = weight_decay if parameter.dim() >= 2 else 0.0
            # sharded and whole tensors cannot share one fused update
            key = (factors[name], decay, isinstance(parameter, DTensor))
            empty = {"params": [], "weight_decay": decay, "factor": factors[name]}
            groups.setdefault(key, empty)["params"].append(parameter)
    return list(groups.values())


def build_optimizer(module: nn.Module, config: LoopConfig) -> torch.optim.AdamW:
    """AdamW over the groups of `config.parts`."""
    groups = parameter_groups(module, config.weight_decay, config.parts)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of every group: `rate` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def clip_gradients(parameters: Iterable[nn.Parameter], longest: float) -> Tensor:
    """Scale all gradients together to a norm of at most `longest`; returns the norm before.

    Sharded gradients count whole, so that the norm is that of the unsharded model.
    """
    kinds: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for parameter in parameters:
        if parameter.grad is not None:
            kinds[isinstance(parameter, DTensor)].append(parameter)
    norms = [_whole(get_total_norm([p.grad for p in kind])) for kind in kinds if kind]
    norm = norms[0] if len(norms) == 1 else torch.stack(norms).square().sum().sqrt()
    if math.isfinite(longest):
        for kind in filter(None, kinds):
            clip_grads_with_norm_(kind, longest, norm)
    return norm


class Average:
    """The exponential average of a module's weights, which is what is measured and kept.

    `decay` 0 keeps none: `module` is then the trained one itself, without a copy. Frozen weights
    are shared with the trained module.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = AveragedModel(module, multi_avg_fn=_ema(decay)) if decay else None
        self.module: nn.Module = module if self.model is None else self.model.module
        for mean, own in zip(self.module.parameters(), module.parameters(), strict=True):
            if not own.requires_grad:
                mean.data = own.data

    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights after update `step`, counted from 0."""
        if self.model is None:
            return
        # early weights are noise: let the average forget them quickly
        self.model.multi_avg_fn = _ema(min(self.decay, (1 + step) / (10 + step)))
        self.model.update_parameters(module)


def _ema(decay: float):
    one_kind = get_ema_multi_avg_fn(decay)

    def update(means: list[Tensor], values: list[Tensor], count: Tensor) -> None:
        for kind in (False, True):  # sharded and whole tensors cannot share one call
            pairs = [(m, v) for m, v in zip(means, values) if isinstance(m, DTensor) == kind]
            if pairs:
                one_kind(*(list(side) for side in zip(*pairs)), count)

    return update


def _whole(norm: Tensor) -> Tensor:
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(f"parts: {text!r} is not a regular expression ({error})") from error
