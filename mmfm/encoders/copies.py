"""One tower of an open_clip model, changed, in a model that shares all else with the original."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, nn

Change = Callable[[Tensor], Tensor]


def tower_tensors(towers: nn.Module, tower: str) -> dict[str, Tensor]:
    """Parameters and buffers of the "image" or "text" tower, by name; not the logits' scale."""
    is_image = tower == "image"
    tensors = {**dict(towers.named_parameters()), **dict(towers.named_buffers())}
    return {
        name: value
        for name, value in tensors.items()
        if name.startswith("visual.") == is_image and not name.startswith("logit_")
    }


def with_tower(
    towers: nn.Module, tower: str, change: Change, swap: Callable[[nn.Module], None]
) -> nn.Module:
    """A model whose one tower has tensors changed by `change`, and then modules by `swap`.

    The other tower, and every tensor that `change` gives back as it came, is the original's own.
    """
    own = tower_tensors(towers, tower)
    memo: dict[int, object] = {
        id(x): x for x in (*towers.parameters(), *towers.buffers(), towers.visual)
    }
    if tower == "image":
        del memo[id(towers.visual)]
    for value in own.values():
        made = change(value)
        is_same, is_weight = made is value, isinstance(value, nn.Parameter)
        memo[id(value)] = value if is_same else nn.Parameter(made, False) if is_weight else made
    # why deepcopy: it rebuilds any module, of open_clip, timm or transformers, around the tensors
    # that the memo has for it
    changed = copy.deepcopy(towers, memo)
    if tower == "image":
        swap(changed.visual)
    else:
        visual = changed._modules.pop("visual")
        swap(changed)
        changed._modules["visual"] = visual
    return changed
