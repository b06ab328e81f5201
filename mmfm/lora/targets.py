"""Which layers of a part an adapter changes.

Attention of torch is taken as a whole (nn.MultiheadAttention): its projections are read by torch,
never called, so that a change of `out_proj` by itself would have no effect (peft issue 2200).
Elsewhere, too, some towers read a layer's weight instead of calling it (the pooling of open_clip's
ResNet, BEiT's qkv); a backbone is therefore run once, and what is not called is not a target.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from mmfm.decoder.decoder import ImageDecoder
from mmfm.encoders.backbone import Backbone
from mmfm.errors import InputError


def root_of(part: nn.Module) -> nn.Module:
    """Where the layers lie, and whose names an adapter's file has: of a Backbone open_clip's own
    model, of an ImageDecoder its flow network (not its space, not its few-step mode).
    """
    if isinstance(part, Backbone):
        return part.towers
    if isinstance(part, ImageDecoder):
        return part.network
    return part


def targets_of(part: nn.Module, wanted: Sequence[str] | None = None) -> list[str]:
    """Names of the layers under `root_of(part)`; wanted: ends of names ("attn", "mlp.c_fc").

    By default every attention and linear map that contrastive training calls; of heads also their
    convolutions. Raises InputError when nothing fits, or what fits cannot learn.
    """
    root = root_of(part)
    fit = [name for name, layer in root.named_modules() if _can_be_changed(layer)]
    if wanted is None:
        called = fit if not isinstance(part, Backbone) else _called(part, whole=False)
        convolutions = not isinstance(part, Backbone)
        found = [
            name for name in _outermost(root, fit)
            if name in called and (convolutions or not _is_convolution(root, name))
        ]  # fmt: skip
        if not found:
            raise InputError(
                f"{type(part).__name__} has no linear or attention layer that an adapter could "
                "change; name layers with targets="
            )
        return found
    if isinstance(wanted, str):
        wanted = [wanted]
    found = [n for n in fit if any(n == w or n.endswith(f".{w}") for w in wanted)]
    if not found:
        raise InputError(
            f"targets {', '.join(map(repr, wanted))} match no linear, convolution or attention "
            f"layer of {type(part).__name__}; it has such as {_examples(root, fit)}"
        )
    outer = set(_outermost(root, fit))
    called = outer if not isinstance(part, Backbone) else _called(part, whole=True) & outer
    dead = [name for name in found if name not in called]
    if dead:
        raise InputError(
            f"target {dead[0]!r} would learn nothing: its weight is read by the layer around it, "
            "it is never called itself; name the whole attention instead ('attn'), or no targets"
        )
    return found


def pattern_of(part: nn.Module, names: Sequence[str]) -> list[str] | str:
    """What PEFT finds exactly these layers by: their last names ("attn", "c_fc") where no other
    layer has one of those, else a regular expression.
    """
    ends = sorted({name.rpartition(".")[2] for name in names})
    fit = {n for n, _ in root_of(part).named_modules() if n.rpartition(".")[2] in ends}
    return ends if fit == set(names) else "|".join(map(re.escape, names))


def _can_be_changed(layer: nn.Module) -> bool:
    if isinstance(layer, nn.MultiheadAttention):
        return bool(layer._qkv_same_embed_dim)
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1
    return isinstance(layer, nn.Linear)


def _is_convolution(root: nn.Module, name: str) -> bool:
    return isinstance(root.get_submodule(name), nn.Conv2d)


def _outermost(root: nn.Module, names: Iterable[str]) -> list[str]:
    """Without what lies inside of an attention of torch, whether that is among them or not."""
    attentions = tuple(
        f"{name}." for name, layer in root.named_modules()
        if isinstance(layer, nn.MultiheadAttention)
    )  # fmt: skip
    return [name for name in names if not name.startswith(attentions)]


@torch.no_grad()
def _called(backbone: Backbone, whole: bool) -> set[str]:
    """Names of the modules that a pass calls; whole: also of open_clip's own forward (CoCa's
    decoder), else of contrastive training alone.
    """
    names: set[str] = set()
    hooks = [
        layer.register_forward_hook(lambda *_, name=name: names.add(name))
        for name, layer in backbone.towers.named_modules()
    ]
    training = {module: module.training for module in backbone.modules()}
    device = next(backbone.parameters()).device
    size, length = backbone.config.image_size, backbone.config.context_length
    pixels = torch.zeros(1, size, size, 3, dtype=torch.uint8, device=device)
    ids = torch.arange(1, length + 1, device=device)[None]
    try:
        backbone.eval()
        backbone(pixels, ids)
        if whole:
            backbone.towers(backbone.normalise(pixels), ids)
    finally:
        for hook in hooks:
            hook.remove()
        for module, state in training.items():
            module.training = state
    return names


def _examples(root: nn.Module, names: Sequence[str]) -> str:
    ends = dict.fromkeys(name.rpartition(".")[2] for name in _outermost(root, names))
    return ", ".join(map(repr, list(ends)[:4])) or "none"
