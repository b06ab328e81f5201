"""A network without the layers that PEFT puts around its own (LoRA, 2106.09685).

Fast paths read weights straight from layers: a wrapped layer shows those of its base, so that its
change would be lost in silence. They ask for `plain(network)` first. Nothing of PEFT is imported:
its layers are known by `get_delta_weight`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

_KEPT = "_mmfm_kept"  # on a wrapped nn.MultiheadAttention: its own weights, see `keep`
Write = Callable[[nn.Parameter, Tensor], nn.Parameter]  # a weight, what it becomes -> what is put
_Network = TypeVar("_Network", bound=nn.Module)


def wrapped(network: nn.Module) -> dict[str, Any]:
    """PEFT's layers by name, those inside of others left out (an attention holds another)."""
    found: dict[str, Any] = {}
    for name, layer in network.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if hasattr(layer, "get_delta_weight") and not inside:
            found[name] = layer
    return found


def plain(network: _Network) -> _Network:
    """`network` itself where nothing is wrapped; else a copy whose weights have the change in them.

    All other weights are shared. Gradients do not pass.
    """
    layers = wrapped(network)
    if not layers:
        return network
    kept = [value for layer in layers.values() for value in layer.__dict__.get(_KEPT, ())]
    memo: dict[int, Any] = {id(x): x for x in (*network.parameters(), *network.buffers(), *kept)}
    made = copy.deepcopy(network, memo)
    unwrap(made, lambda weight, value: nn.Parameter(value, False))
    return made


def attentions(network: nn.Module) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    """The two weights of every attention of torch, before any is wrapped: for `keep`."""
    return {
        name: (layer.in_proj_weight, layer.out_proj.weight)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.MultiheadAttention)
    }


def keep(network: nn.Module, own: dict[str, tuple[nn.Parameter, nn.Parameter]]) -> None:
    """Remember the weights that wrapped attentions had before, which come back by `unwrap`.

    why: PEFT adds the change to them and takes it away at every pass, each time as new parameters;
    rounding would move them, so that a resumed training were another. Here they are put back.
    """
    for name, layer in wrapped(network).items():
        if name in own:
            layer.__dict__[_KEPT] = own[name]
            layer.__dict__["unmerge"] = partial(_put_back, layer)


def unwrap(network: nn.Module, write: Write) -> None:
    """Put every wrapped layer's own in its place again, with `write(weight, value)` as weight."""
    for name, layer in wrapped(network).items():
        base = layer.base_layer
        if isinstance(base, nn.MultiheadAttention):
            own, out = _kept(layer), base.out_proj.base_layer
            values = _merged_attention(layer, own)
            base.out_proj = out
            _put(base, "in_proj_weight", write(own[0], _moved(own[0], values[0])))
            _put(out, "weight", write(own[1], _moved(own[1], values[1])))
        else:
            _put(base, "weight", write(base.weight, _moved(base.weight, _merged(layer))))
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, base)


def own_weights(network: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that wrapped layers change, without the change, by their names in the plain
    network.
    """
    found = {}
    for name, layer in wrapped(network).items():
        if isinstance(layer.base_layer, nn.MultiheadAttention):
            whole, out = _kept(layer)
            found[f"{name}.in_proj_weight"], found[f"{name}.out_proj.weight"] = whole, out
        else:
            found[f"{name}.weight"] = layer.base_layer.weight
    return found


def _moved(weight: Tensor, value: Tensor) -> Tensor:
    """The value, and the very bits of the weight where it did not move: -0 + 0 is another zero."""
    weight = weight.detach()
    return torch.where(value == weight, weight, value)


@torch.no_grad()
def _merged(layer: Any) -> Tensor:
    value = layer.base_layer.weight.detach().clone()
    for name in _active(layer):
        value += layer.get_delta_weight(name).to(value)
    return value


@torch.no_grad()
def _merged_attention(layer: Any, own: tuple[nn.Parameter, nn.Parameter]) -> tuple[Tensor, Tensor]:
    """Of both projections.

    why PEFT's own sum: 0.21 counts the change of out_proj twice, in its forward pass and when it
    merges. What it computes with while it learns is what shall be there afterwards.
    """
    base = layer.base_layer
    _put(base, "in_proj_weight", own[0])
    _put(base.out_proj.base_layer, "weight", own[1])
    if names := _active(layer):
        layer.merge(adapter_names=names)
    return base.in_proj_weight.detach().clone(), base.out_proj.base_layer.weight.detach().clone()


def _active(layer: Any) -> list[str]:
    return [] if layer.disable_adapters else [n for n in layer.active_adapters if n in layer.lora_A]


def _kept(attention: Any) -> tuple[nn.Parameter, nn.Parameter]:
    base = attention.base_layer
    now = base.in_proj_weight, base.out_proj.base_layer.weight
    own = attention.__dict__.get(_KEPT, now)
    for weight, other in zip(own, now):  # the part may have been moved since
        if (weight.device, weight.dtype) != (other.device, other.dtype):
            weight.data = weight.data.to(other.device, other.dtype)
    return own


def _put_back(attention: Any) -> None:
    """In the place of PEFT's `unmerge`."""
    base, own = attention.base_layer, _kept(attention)
    _put(base, "in_proj_weight", own[0])
    _put(base.out_proj.base_layer, "weight", own[1])
    attention.merged_adapters.clear()
    base.out_proj.merged_adapters.clear()


def _put(owner: nn.Module, name: str, weight: nn.Parameter) -> None:
    owner.__dict__.pop(name, None)  # where PEFT left a tensor that is no parameter
    owner._parameters.pop(name, None)
    owner.register_parameter(name, weight)
