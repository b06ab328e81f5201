"""What the sampler follows: the network under several conditions, weighed, in one pass.

Classifier-free guidance (2207.12598), guidance by text and picture apart (InstructPix2Pix,
2211.09800), negative prompts and mixtures of two conditions (2206.01714) are all one sum of
predictions whose weights add up to 1. Known parts of a map are put into the prediction, so that
every solver keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from mmfm.decoder.network import Condition
from mmfm.decoder.sampler import Predict

Weight: TypeAlias = "float | Tensor"  # one for all rows, or (B,)
Network = Callable[[Tensor, Tensor, Condition], Tensor]
ALWAYS = (0.0, 1.0)


@dataclass(frozen=True)
class Part:
    """A condition and how much its prediction counts: with guidance, and where there is none.

    Both kinds of weight add up to 1 over the parts; those of plain guidance by a scale s are
    (s, 1) for what is asked for and (1 - s, 0) for what guidance moves away from.
    """

    condition: Condition
    guided: Weight
    plain: Weight


def guided(
    network: Network, parts: Sequence[Part], interval: tuple[float, float] = ALWAYS,
    remember: Callable[[Condition], Condition] = lambda condition: condition,
) -> Predict:  # fmt: skip
    """The weighed sum of network(x_t, t, condition); parts of weight 0 are not computed.

    interval: of t, from 0 (noise) to 1 (data), in which there is guidance (2404.07724).
    remember: prepares a condition that is used at every step (`FlowNetwork.remember`).
    """
    inside = _sum(network, [(part.condition, part.guided) for part in parts], remember)
    if tuple(interval) == ALWAYS:
        return inside
    outside = _sum(network, [(part.condition, part.plain) for part in parts], remember)
    low, high = interval
    return lambda x, t: (inside if low <= float(t[0]) <= high else outside)(x, t)


def kept(predict: Predict, known: Tensor, mask: Tensor) -> Predict:
    """Predictions whose known part is `known`; mask: 1 where it is to be drawn, 0 where kept.

    known (B, C, h, w), mask broadcasts to it. From noise mixed with `known` the velocity of the
    kept part is then constant, its path straight, and any solver comes back to `known`.
    """
    return lambda x, t: torch.where(mask > 0, predict(x, t), known)


def _sum(
    network: Network, parts: Sequence[tuple[Condition, Weight]],
    remember: Callable[[Condition], Condition],
) -> Predict:  # fmt: skip
    used = [(c, w) for c, w in parts if torch.as_tensor(w).count_nonzero()]
    count = len(used)
    if count == 1 and not isinstance(used[0][1], Tensor):
        alone = remember(used[0][0])  # its weight is 1
        return lambda x, t: network(x, t, alone)
    told = remember(Condition.stack([c for c, _ in used]))
    weights = [w[:, None, None, None] if isinstance(w, Tensor) else w for _, w in used]

    def predict(x: Tensor, t: Tensor) -> Tensor:
        said = network(x.repeat(count, 1, 1, 1), t.repeat(count), told).chunk(count)
        total = weights[0] * said[0]
        for weight, y in zip(weights[1:], said[1:]):
            total += weight * y
        return total

    return predict
