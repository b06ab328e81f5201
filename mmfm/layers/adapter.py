"""A low-rank change of a network's weights, kept beside it (LoRA, 2106.09685).

The network itself is never touched: `bind` gives it with the changed weights as another callable,
so switching the adapter off is calling the network. Matrices and kernels change by a product of
two thin ones, vectors (biases, norms) by a vector. A fresh adapter changes no bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

_Network = TypeVar("_Network", bound=nn.Module)


class Adapter(nn.Module):
    """Changes every parameter of `network` but those whose name starts with one of `skip`."""

    def __init__(self, network: nn.Module, rank: int, skip: Iterable[str] = ()) -> None:
        super().__init__()
        self.lora_A = nn.ParameterDict()  # (rank, columns)
        self.lora_B = nn.ParameterDict()  # (rows, rank), zero at first
        self.vectors = nn.ParameterDict()
        skip = tuple(skip)
        for name, parameter in network.named_parameters():
            if skip and name.startswith(skip):
                continue
            key = _key(name)
            if parameter.dim() < 2:
                self.vectors[key] = nn.Parameter(torch.zeros_like(parameter))
            else:
                rows, columns = parameter.flatten(1).shape
                down = torch.randn(rank, columns) * columns**-0.5
                self.lora_A[key] = nn.Parameter(down.to(parameter))
                self.lora_B[key] = nn.Parameter(parameter.new_zeros(rows, rank))

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        """The changed parameters of `network`, by name; gradients reach this adapter alone."""
        changed = {}
        for name, parameter in network.named_parameters():
            key, own = _key(name), parameter.detach()
            if key in self.vectors:
                changed[name] = own + self.vectors[key]
            elif key in self.lora_A:
                product = self.lora_B[key] @ self.lora_A[key]
                changed[name] = own + product.view_as(own).to(own)
        return changed

    def bind(self, network: nn.Module) -> Callable[..., Any]:
        """`network` as a callable with the changed weights, which are computed once, here."""
        weights = self.weights(network)
        return lambda *args: functional_call(network, weights, args)

    @torch.no_grad()
    def merge(self, network: nn.Module) -> None:
        """Write the changed weights into `network` for good."""
        for name, value in self.weights(network).items():
            network.get_parameter(name).copy_(value)

    def merged(self, network: _Network) -> _Network:
        """A copy of `network` with the changed weights, in evaluation mode."""
        changed = copy.deepcopy(network).requires_grad_(False).eval()
        self.merge(changed)
        return changed


def _key(name: str) -> str:
    """A parameter's name as a key of a ParameterDict, which may hold no dot."""
    return name.replace(".", "/")
