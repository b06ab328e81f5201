"""Several adapters of one part: one of them, or none, is in its weights.

A switched-on adapter is written into the weights, so that every way to compute has it; the base's
own weights are kept aside and come back bit for bit.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mmfm.errors import InputError, ModelError
from mmfm.layers.plain import own_weights
from mmfm.lora.adapter import NAME, fill, inject, is_open, leave, peft, take_out
from mmfm.lora.files import Adapter, adapter_of, read
from mmfm.lora.targets import root_of


@dataclass
class _Shelf:
    """The adapters of one part, and the base's weights under the one that is on."""

    adapters: dict[str, Adapter] = field(default_factory=dict)
    on: str | None = None
    base: dict[str, Tensor] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)  # of the weights as they were written


# why beside the part: a copy of it is a plain network with the adapter in it, no more
_SHELVES: WeakKeyDictionary[nn.Module, _Shelf] = WeakKeyDictionary()


def load(
    part: nn.Module, folder: str | Path, name: str = "default", *, trainable: bool = False
) -> None:
    """Read an adapter, call it `name` (one of that name is replaced), and switch it on.

    trainable: put it in as `add` does, to learn on, instead; then it has no name.
    Raises ModelError when it cannot be read or does not fit, InputError without peft, or while
    another adapter learns in this part.
    """
    put(part, read(folder), name, trainable=trainable, told=str(folder))


def put(part: nn.Module, adapter: Adapter, name: str, *, trainable: bool, told: str) -> None:
    """`load` of an adapter that is read already; told: what to call it in errors."""
    _expect_closed(part)
    if trainable:
        switch(part, None)
        _fill(part, adapter, told)
        return
    shelf = _SHELVES.setdefault(root_of(part), _Shelf())
    before, former = shelf.on, shelf.adapters.get(name)
    switch(part, None)
    shelf.adapters[name] = adapter
    try:
        switch(part, name)
    except InputError:
        del shelf.adapters[name]
        if former is not None:
            shelf.adapters[name] = former
        switch(part, before)
        raise


def switch(part: nn.Module, name: str | None) -> None:
    """Have the adapter called `name` in the weights, or with None the base alone, bit for bit.

    Raises InputError on an unknown name or while an adapter learns; ModelError when the weights
    were changed while an adapter was on.
    """
    _expect_closed(part)
    root = root_of(part)
    shelf = _SHELVES.get(root, _Shelf())
    if name is not None and name not in shelf.adapters:
        known = ", ".join(map(repr, shelf.adapters)) or "none"
        raise InputError(f"there is no adapter {name!r}; loaded are {known}")
    if name == shelf.on:
        return
    _restore(root, shelf)
    if name is None:
        return
    _fill(part, shelf.adapters[name], repr(name))
    shelf.base = {key: value.detach().clone() for key, value in own_weights(root).items()}
    take_out(part, fill)
    shelf.versions = {key: _version(root.get_parameter(key)) for key in shelf.base}
    shelf.on = name


def active(part: nn.Module) -> str | None:
    """The name of the adapter that is switched on."""
    shelf = _SHELVES.get(root_of(part))
    return None if shelf is None else shelf.on


def names(part: nn.Module) -> list[str]:
    """Of the adapters that were loaded."""
    shelf = _SHELVES.get(root_of(part))
    return [] if shelf is None else list(shelf.adapters)


def current(part: nn.Module) -> Adapter | None:
    """The adapter that is switched on."""
    shelf = _SHELVES.get(root_of(part))
    return None if shelf is None or shelf.on is None else shelf.adapters[shelf.on]


def forget(part: nn.Module) -> bool:
    """Leave what is on in the weights for good, and forget all adapters; whether one was on."""
    shelf = _SHELVES.get(root_of(part))
    if shelf is None or shelf.on is None:
        return False
    del _SHELVES[root_of(part)]
    return True


def base_state(part: nn.Module) -> dict[str, Tensor]:
    """The state dict that `root_of(part)` has without any adapter."""
    root = root_of(part)
    shelf = _SHELVES.get(root, _Shelf())
    own = {**root.state_dict(), **shelf.base}
    changed = {**own, **own_weights(root)}
    return {k.replace(".base_layer.", "."): v for k, v in changed.items() if ".lora_" not in k}


def _restore(root: nn.Module, shelf: _Shelf) -> None:
    weights = {key: root.get_parameter(key) for key in shelf.base}
    for key, weight in weights.items():
        if _version(weight) != shelf.versions[key]:
            raise ModelError(
                f"the weight {key} was changed while the adapter {shelf.on!r} was on, so the base "
                "cannot come back; load the model again"
            )
    with torch.no_grad():
        for key, weight in weights.items():
            weight.copy_(shelf.base[key])
    shelf.on, shelf.base, shelf.versions = None, {}, {}


def _fill(part: nn.Module, adapter: Adapter, told: str) -> None:
    """PEFT's layers with the adapter's tensors. Raises ModelError when they do not fit."""
    wanted = {k: tuple(v.shape) for k, v in adapter.tensors.items()}
    try:
        inject(part, deepcopy(adapter.config))
    except InputError as error:
        raise ModelError(f"{told}: {error}; it was made for another part or model") from error
    found = {k: tuple(v.shape) for k, v in adapter_of(part).tensors.items()}
    if found != wanted:
        odd = next(iter(sorted(set(found.items()) ^ set(wanted.items()))))[0]
        take_out(part, leave)
        raise ModelError(
            f"{told} does not fit {type(part).__name__} (at {odd}); it was made for another part "
            "or model"
        )
    peft().set_peft_model_state_dict(root_of(part), dict(adapter.tensors), adapter_name=NAME)


def _expect_closed(part: nn.Module) -> None:
    if is_open(part):
        raise InputError("this part learns an adapter; save it and merge it (lora.merge) first")


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version
