"""Old and new weights mixed (WiSE-FT, 2109.01903): most of what was learned, little forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the new weights, that are tried
Try = dict[str, Any]
MAY_LOSE = 0.01  # of the mean reciprocal rank on original pictures
MAY_FORGET = 0.02  # of the F1 of captions of original pictures
_SPREAD = 0.4  # of 1 / rank, and of F1, among pictures, about


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
    measure: Callable[[], Mapping[str, float]], pick: Callable[[list[Try]], Try],
    shares: Sequence[float] = SHARES,
) -> tuple[float, list[Try]]:  # fmt: skip
    """Measure the module at every share, put in the one that `pick` picks; that one and all tries.

    measure: figures of the module as it is; they stand beside `share` in a try.
    """
    tries: list[Try] = []
    for share in shares:
        mix(module, old, new, share)
        tries.append({"share": share, **measure()})
    best = pick(tries)["share"]
    mix(module, old, new, best)
    return best, tries


def little_lost(
    before: Mapping[str, float], figure: str = "mrr", may_lose: float = MAY_LOSE
) -> Callable[[list[Try]], Try]:
    """Picks the best `held_out_<figure>` among those whose `original_<figure>` fell by `may_lose`
    at most: of those within one standard error of it, the largest share, for a hold-out of a few
    pictures tells them apart by chance alone.

    Where all fell by more, the one that fell least. Without original pictures, all are allowed.
    """
    new, known = f"held_out_{figure}", f"original_{figure}"

    def lost(one: Try) -> float:
        return before[known] - one[known] if known in before else 0.0

    def pick(tries: list[Try]) -> Try:
        fine = [one for one in tries if lost(one) <= may_lose]
        if not fine:
            return min(tries, key=lost)
        best = max(one[new] for one in fine)
        near = [one for one in fine if one[new] >= best - _SPREAD / one["held_out"] ** 0.5]
        return max(near, key=lambda one: one["share"])

    return pick
