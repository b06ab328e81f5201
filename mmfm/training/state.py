"""Everything that a run must remember, as named tensors: weights, their average, the optimizer."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mmfm.training.optim import Average

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # of AdamW


def state_tensors(
    module: nn.Module, average: Average, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Live tensors, sharded where the module is; filling them in place restores the run.

    Names: `module.NAME`, `average.NAME`, `optimizer.MOMENT.NAME`, by the parameters' own names, so
    that they mean the same for any number of processes and any grouping.
    """
    tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
    if average.model is not None:
        means = average.module.state_dict()
        tensors |= {f"average.{name}": value for name, value in means.items()}
        tensors["averaged"] = average.model.n_averaged
    for name, parameter in module.named_parameters():
        for moment, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{moment}.{name}"] = value
    return tensors


def prepare_optimizer(
    module: nn.Module, optimizer: torch.optim.Optimizer, names: Iterable[str]
) -> None:
    """Make the moments that `names` (of `state_tensors`) list, to be filled.

    An optimizer has none before its first step, and never any for a parameter without gradient.
    """
    kept = set(names)
    for name, parameter in module.named_parameters():
        if f"optimizer.step.{name}" in kept and parameter.requires_grad:
            # torch counts the steps in a tensor beside the parameter, always whole
            count = torch.zeros((), dtype=torch.float32, device=parameter.device)
            optimizer.state[parameter] = {
                **{moment: torch.zeros_like(parameter) for moment in _MOMENTS[:2]}, "step": count
            }  # fmt: skip
