"""PEFT's layers in a part of a model, and out of it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mmfm.errors import InputError
from mmfm.layers.plain import attentions, keep, unwrap, wrapped
from mmfm.lora.targets import pattern_of, root_of, targets_of

NAME = "default"  # of the one adapter that PEFT sees
_LEARNT: WeakKeyDictionary[nn.Module, list[nn.Parameter]] = WeakKeyDictionary()  # before `add`


def peft() -> Any:
    """The library. Raises InputError when it is not installed."""
    try:
        import peft as library
    except ImportError as error:
        raise InputError(f"adapters need peft ({error}); pip install 'mmfm[lora]'") from error
    return library


def is_open(part: nn.Module) -> bool:
    """Whether PEFT's layers are in it, so that it learns an adapter."""
    return bool(wrapped(root_of(part)))


def add(
    part: nn.Module, *, rank: int = 8, alpha: float = 16, targets: Sequence[str] | None = None
) -> list[str]:
    """Give a Backbone, Captioner, ImageDecoder or other module a fresh adapter to train.

    Only the adapter's own tensors require a gradient afterwards; fresh, it changes no bit. The
    change of a weight is alpha / rank * B @ A. targets: ends of layers' names; by default every
    attention and linear map of towers, and every linear map and convolution of heads. Returns the
    names of the layers that it changes.

    Raises InputError when peft is missing, rank or alpha is not positive, targets fit nothing or
    cannot learn, or there is an adapter already.
    """
    from mmfm.lora.switching import active

    if rank < 1 or not alpha > 0:
        raise InputError(f"got rank {rank} and alpha {alpha}, wanted a positive number for each")
    if is_open(part):
        raise InputError("this part learns an adapter already; merge it (lora.merge) or save it")
    if (name := active(part)) is not None:
        raise InputError(
            f"the adapter {name!r} is in the weights; switch it off (lora.switch(part, None)) or "
            "merge it before a new one learns"
        )
    names = targets_of(part, targets)
    config = peft().LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none",
        target_modules=pattern_of(part, names),
    )  # fmt: skip
    inject(part, config)
    return names


def inject(part: nn.Module, config: Any) -> None:
    """Put PEFT's layers in, and freeze all else, until `take_out`.

    Raises InputError when they cannot be had for these layers.
    """
    root = root_of(part)
    library, _LEARNT[root] = peft(), [p for p in part.parameters() if p.requires_grad]
    own = attentions(root)
    for parameter in part.parameters():
        parameter.requires_grad_(False)
    try:
        library.inject_adapter_in_model(config, root, NAME)
    except (ValueError, TypeError) as error:
        keep(root, own)
        take_out(part, leave)
        raise InputError(f"the adapter does not fit {type(part).__name__}: {error}") from error
    keep(root, own)
    _touch(root)


def merge(part: nn.Module) -> None:
    """Write the adapter into the weights for good: plain modules and their own names again.

    What required a gradient before `add` does so again. Raises InputError without an adapter.
    """
    from mmfm.lora.switching import forget

    if not is_open(part) and not forget(part):
        raise InputError("there is no adapter to merge; lora.add or lora.load gives one")
    if is_open(part):
        take_out(part, fill)


def discard(part: nn.Module) -> None:
    """Take out the adapter that a part learns, without its change: the base bit for bit.

    Raises InputError when none learns.
    """
    if not is_open(part):
        raise InputError(
            "no adapter learns in this part; lora.switch(part, None) leaves a loaded one"
        )
    take_out(part, leave)


def take_out(part: nn.Module, write: Any) -> None:
    """Take PEFT's layers out, with `write(weight, value)` as the weights."""
    root = root_of(part)
    unwrap(root, write)
    _touch(root)
    root.__dict__.pop("peft_config", None)
    for parameter in _LEARNT.pop(root, []):
        parameter.requires_grad_(True)


def _touch(root: nn.Module) -> None:
    """Count all weights as written to, so that whatever was laid out of them is made again."""
    torch.autograd.graph.increment_version([p for p in root.parameters() if not p.is_inference()])


@torch.no_grad()
def fill(weight: nn.Parameter, value: Tensor) -> nn.Parameter:
    """Written in place, so that all that was laid out of this weight notices."""
    return weight.copy_(value)


def leave(weight: nn.Parameter, value: Tensor) -> nn.Parameter:
    """The weight as it was."""
    return weight
