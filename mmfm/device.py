"""Which device a model computes on."""

from __future__ import annotations

import torch
from torch import nn

from mmfm.errors import ModelError


def pick_device(name: str | None) -> torch.device:
    """The named device, or the best one present. Raises ModelError when it cannot be used."""
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"device {name!r} cannot be used ({reason}); try cpu") from error
    return device


def device_of(module: nn.Module) -> torch.device:
    """Where a module's weights are, all in one place."""
    return next(module.parameters()).device
