"""Weights on disk: safetensors, checked before they are read; pickled files where that is allowed.

Unpickling is limited to tensors (`weights_only`), and still asked for by name: a pickle of an
untrusted source is a program. Training checkpoints of open_clip are understood: their
`state_dict`, the `module.` of distributed runs, the `_orig_mod.` of compiled ones; what else they
hold (optimizer, epoch) is left on the disk.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmfm.errors import ModelError

SAFE = ".safetensors"
PICKLED = (".pt", ".pth", ".bin")
_LONGEST_HEADER = 16 << 20  # bytes; a model of 10,000 tensors needs 1 MB
_PREFIXES = ("module.", "_orig_mod.")  # what DDP and torch.compile put before every name

State = dict[str, Tensor]
Adapt = Callable[[nn.Module, State], State]


def check_file(path: Path, allow_pickle: bool) -> None:
    """Whether there is such a file, of a kind that may be read; else ModelError."""
    suffix = path.suffix.lower()
    if suffix not in (SAFE, *PICKLED):
        raise ModelError(f"{path} is no weights file; wanted {SAFE}, or {', '.join(PICKLED)}")
    if not path.is_file():
        raise ModelError(f"there is no weights file {path}; check the path")
    if suffix in PICKLED and not allow_pickle:
        raise ModelError(
            f"{path} is a pickle, which can hold a program; take a {SAFE} file, or if you trust "
            "where it comes from pass allow_pickle=True (--allow-pickle): only tensors are read"
        )


def fill(
    towers: nn.Module, path: Path, *, allow_pickle: bool = False, adapt: Adapt | None = None
) -> None:
    """Give a model the weights of a file, which must have its names and shapes, and no others.

    adapt: puts older names under today's (see `fits`). Raises ModelError; the model is untouched
    then, unless the file changes while it is read.
    """
    if path.suffix == SAFE:
        fits(towers, path, adapt)
    state = _read(path, allow_pickle)
    if adapt is not None:
        state = adapt(towers, state)
    _compare(towers, state, path)
    towers.load_state_dict(state)


def fits(towers: nn.Module, path: Path, adapt: Adapt | None = None) -> None:
    """Check a safetensors file against a model by its header alone; `towers` may be on "meta".

    Raises ModelError when it is damaged, or holds other names or shapes.
    """
    state = _shapes(path)
    _compare(towers, state if adapt is None else adapt(towers, state), path)


def _shapes(path: Path) -> State:
    """What a safetensors file holds, as tensors without content.

    The library checks that every tensor has as many bytes as its shape needs and that they fill the
    file exactly.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > _LONGEST_HEADER:
            raise ModelError(
                f"{path} is no safetensors file, or damaged: its header would be {length} bytes "
                "long; copy or download it again"
            )
        with safe_open(path, "pt") as found:
            told = {name: found.get_slice(name) for name in found.keys()}  # noqa: SIM118
            return _plain(
                {
                    name: torch.empty(one.get_shape(), dtype=_kind(one.get_dtype()), device="meta")
                    for name, one in told.items()
                }
            )
    except (OSError, SafetensorError) as error:
        raise ModelError(_damaged(path, error)) from error


def _read(path: Path, allow_pickle: bool) -> State:
    check_file(path, allow_pickle)
    if path.suffix == SAFE:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return _plain(load_file(path))
        except (OSError, SafetensorError) as error:
            raise ModelError(_damaged(path, error)) from error
    try:
        found = _unpickled(path)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than tensors and plain numbers, and is not run; load it where you "
            f"trust it and save its state_dict as {SAFE}"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError) as error:
        raise ModelError(_damaged(path, error)) from error
    if isinstance(found, Mapping):
        found = found.get("state_dict", found)
    if (
        not isinstance(found, Mapping)
        or not found
        or not all(isinstance(value, Tensor) for value in found.values())
    ):
        raise ModelError(f"{path} holds no state_dict of tensors; save model.state_dict()")
    return _plain(dict(found))


def _unpickled(path: Path) -> Any:
    try:  # mapped: the optimizer's state, twice the model, is then never read
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        return torch.load(
            path, map_location="cpu", weights_only=True
        )  # a file older than torch 1.6


def _plain(state: State) -> State:
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _compare(towers: nn.Module, state: State, path: Path) -> None:
    wanted = towers.state_dict()
    missing = [name for name in wanted if name not in state]
    unknown = [name for name in state if name not in wanted]
    wrong = [
        f"{name} is {_told(state[name])} where {_told(value)} is wanted"
        for name, value in wanted.items()
        if name in state and _told(state[name]) != _told(value)
    ]
    faults = [
        what + _some(names)
        for what, names in (("", wrong), ("it lacks ", missing), ("it has besides ", unknown))
        if names
    ]
    if faults:
        raise ModelError(
            f"{path} holds the weights of another model: {', '.join(faults)}; name the "
            "architecture that it was made with"
        )


def _told(value: Tensor) -> str:
    return f"{'' if value.is_floating_point() else 'whole '}{tuple(value.shape)}"


def _some(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _kind(name: str) -> torch.dtype:
    return torch.float32 if name.startswith(("F", "BF")) else torch.int64


def _damaged(path: Path, error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{path} cannot be read ({lines[0].strip()}); copy or download it again"
