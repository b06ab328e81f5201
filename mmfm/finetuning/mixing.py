"""Old and new weights mixed (WiSE-FT, 2109.01903): most of what was learned, little forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the new weights, that are tried
MAY_LOSE = 0.01  # of the mean reciprocal rank on original pictures


@torch.no_grad()
def mix(module: nn.Module, old: Mapping[str, Tensor], new: Mapping[str, Tensor], share: float):
    """Fill `module` with (1 - share) old + share new; whole numbers stay as the new ones are."""
    state = {
        name: torch.lerp(old[name], value, share) if value.is_floating_point() else value
        for name, value in new.items()
    }
    module.load_state_dict(state)


def choose(
    module: nn.Module, old: Mapping[str, Tensor], new: Mapping[str, Tensor],
    measure: Callable[[], Mapping[str, float]], before: Mapping[str, float],
    shares: Sequence[float] = SHARES,
) -> tuple[float, list[dict[str, Any]]]:  # fmt: skip
    """The share that does best on the hold-out among those that lose little; it is put in.

    measure: `held_out_mrr`, and `original_mrr` where there are original pictures, of the module as
    it is. before: the same of the old weights. Where every share loses too much, it is the one that
    loses least. Without original pictures, the best on the hold-out. Returns share and all tries.
    """
    tries = []
    for share in shares:
        mix(module, old, new, share)
        tries.append({"share": share, **measure()})
    fine = [one for one in tries if _lost(one, before) <= MAY_LOSE]
    if fine:
        best = max(fine, key=lambda one: (one["held_out_mrr"], one["share"]))
    else:
        best = min(tries, key=lambda one: _lost(one, before))
    mix(module, old, new, best["share"])
    return best["share"], tries


def _lost(one: Mapping[str, float], before: Mapping[str, float]) -> float:
    if "original_mrr" not in before:
        return 0.0
    return before["original_mrr"] - one["original_mrr"]
