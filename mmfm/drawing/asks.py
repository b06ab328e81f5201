"""What pictures are asked to show: conditions with their ports and weights, before the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from mmfm.decoder.guidance import Part, Weight
from mmfm.decoder.network import Condition
from mmfm.decoder.sampler import noise, picture_seed
from mmfm.shapes import Embeddings


@dataclass(frozen=True)
class Ask:
    """Of K pictures one condition: embeddings (K rows), which ports are open, and its weights.

    guided, plain: as in `Part`, one number or (K,).
    """

    embeddings: Embeddings
    text: bool
    pooled: bool
    guided: Weight
    plain: Weight = 0.0

    def part(self, conditioner: Callable[..., Condition], rows: list[int], seeds: list[int],
             noise_level: float) -> Part:  # fmt: skip
        """For the pictures `rows`, picture by picture with its own noise on the vector."""
        told = self.embeddings.take(rows)
        if self.pooled and noise_level > 0:
            told = Embeddings(jitter(told.pooled, seeds, noise_level), told.tokens, told.mask)
        ports = (torch.full((len(rows),), port, device=told.pooled.device)
                 for port in (self.text, self.pooled))  # fmt: skip
        return Part(conditioner(told, *ports), *(_of(w, rows) for w in (self.guided, self.plain)))


def asks(
    text: Embeddings | None, pooled: Tensor | None, negative: Embeddings | None,
    text_scale: float, image_scale: float,
) -> list[Ask]:  # fmt: skip
    """A text, a vector or both, and what guidance moves away from.

    text, negative: K rows; pooled (K, D). With both there are three conditions (InstructPix2Pix,
    2211.09800): nothing, the vector alone, and both; a negative text stands where no text would.
    """
    if pooled is None:
        assert text is not None
        told = [Ask(text, True, False, text_scale, 1.0)]
        return [*told, away(text.pooled, negative, 1.0 - text_scale)]
    if text is None:
        told = [Ask(Embeddings(pooled), False, True, image_scale, 1.0)]
        return [*told, away(pooled, negative, 1.0 - image_scale)]
    both = Embeddings(pooled, text.tokens, text.mask)
    alone = Embeddings(pooled) if negative is None else replace(negative, pooled=pooled)
    return [
        Ask(both, True, True, text_scale, 1.0),
        Ask(alone, negative is not None, True, image_scale - text_scale),
        away(pooled, negative, 1.0 - image_scale),
    ]


def away(like: Tensor, negative: Embeddings | None, guided: Weight, plain: Weight = 0.0) -> Ask:
    """What guidance moves away from: a negative text, or nothing at all; like: (K, D)."""
    nothing = Embeddings(torch.zeros_like(like))
    return Ask(negative or nothing, negative is not None, False, guided, plain)


def mixture(a: Ask, b: Ask, negative: Embeddings | None, at: Tensor) -> list[Ask]:
    """Predictions of two conditions mixed (2206.01714), at (K,) from 0, a alone, to 1, b alone.

    a, b, negative: one row each, the weights of a and b their guidance scales.
    """
    rows = [0] * len(at)
    weights = {"a": a.guided * (1 - at), "b": b.guided * at}
    first = replace(a, embeddings=a.embeddings.take(rows), guided=weights["a"], plain=1 - at)
    second = replace(b, embeddings=b.embeddings.take(rows), guided=weights["b"], plain=at)
    rest = away(first.embeddings.pooled, negative and negative.take(rows),
                1 - weights["a"] - weights["b"], torch.zeros_like(at))  # fmt: skip
    return [first, second, rest]


def slerp(a: Tensor, b: Tensor, at: Tensor | float) -> Tensor:
    """Unit vectors on the great circle from a (D,) to b (D,): (K, D) for at (K,), (D,) for one."""
    angle = torch.dot(a, b).clamp(-1, 1).acos()
    at = torch.as_tensor(at).to(a)[..., None]
    if angle < 1e-4:
        return F.normalize(a + at * (b - a), dim=-1)
    return F.normalize(((1 - at) * angle).sin() * a + (at * angle).sin() * b, dim=-1)


def jitter(pooled: Tensor, seeds: list[int], level: float) -> Tensor:
    """Unit vectors (K, D) plus normal noise of that deviation, row i from seeds[i] alone."""
    # why another seed: the map's noise begins with the numbers that the seed itself gives
    rows = noise([picture_seed(seed, 0, 1) for seed in seeds], pooled.shape[1:]).to(pooled)
    return F.normalize(pooled + level * rows, dim=1)


def _of(weight: Weight, rows: list[int]) -> Weight:
    return weight[rows] if isinstance(weight, Tensor) else weight
