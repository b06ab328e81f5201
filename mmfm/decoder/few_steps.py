"""The few-step mode: an adapter that makes the flow network jump from node to node.

With it, one evaluation of the network does what the guided flow does in several evaluations with
and as many without the condition: it predicts the clean map towards which a straight line leads to
the flow's next node. The nodes are those of the Euler sampler with `few_steps` steps, so that the
same sampler draws with both, and the flow itself stays as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmfm.decoder.flow import shift_sigma, unshift_sigma
from mmfm.decoder.network import FlowNetwork
from mmfm.layers.adapter import Adapter


def few_steps_adapter(network: FlowNetwork) -> Adapter:
    """A fresh one, which changes nothing; what a text becomes stays the flow's own."""
    return Adapter(network, network.config.few_steps_rank, skip=("conditioner.",))


def nodes(num_steps: int, shift: float) -> Tensor:
    """(num_steps + 1,) times from 0 (noise) to 1 (data), as the Euler sampler visits them."""
    sigma = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    return (1 - shift_sigma(sigma, shift)).float()


def between(starts: Tensor, ends: Tensor, num_steps: int, shift: float) -> Tensor:
    """(num_steps + 1, B) times from `starts` to `ends` (B,), spaced as `nodes` spaces them."""
    plain = [unshift_sigma(1 - t.double(), shift) for t in (starts, ends)]
    share = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)[:, None].to(plain[0])
    sigma = shift_sigma(plain[0] + share * (plain[1] - plain[0]), shift)
    return (1 - sigma).to(starts)


def advance(predicted: Tensor, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """x (B, C, h, w) moved from times `start` to `end` (B,) straight towards a clean map."""
    return x + _on_maps((end - start) / (1 - start)) * (predicted - x)


def towards(reached: Tensor, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """The clean map that takes x to `reached`: the inverse of `advance`."""
    return x + _on_maps((1 - start) / (end - start)) * (reached - x)


def _on_maps(times: Tensor) -> Tensor:
    return times[:, None, None, None]
