"""A step of a recipe at its real size without its memory: shapes are computed, numbers are not.

torch's FakeTensorMode runs forward, loss, backward and optimizer on tensors that know their
shape, type and device alone. What is wrong with a recipe shows here, in seconds and on any
machine, and not in the first step of the real run.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmfm.encoders.backbone import Backbone
from mmfm.errors import InputError
from mmfm.training.contrastive import ContrastiveTask
from mmfm.training.optim import build_optimizer, clip_gradients
from mmfm.training.recipe import Recipe


def rehearse(recipe: Recipe, ranks: int) -> dict[str, Any]:
    """One step of one of `ranks` processes, on as many pairs as it holds at once.

    Returns the shapes seen and how many parameters were updated. The exchange between processes
    and the kernels of a GPU are not tried. Raises InputError when the model cannot be built or
    its step cannot be made.
    """
    started = time.monotonic()
    at_once = recipe.local_batch(ranks) // recipe.loop.accumulate
    try:
        backbone = Backbone.from_config(recipe.backbone, device="meta").train()
        token_ids = backbone.tokenize(["a caption"])  # real: its length is looked at
        with FakeTensorMode():
            shapes = _step(faked(backbone), recipe, at_once, token_ids.shape[1])
    except InputError:
        raise
    except Exception as error:  # open_clip and torch raise nearly anything at a wrong setting
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise InputError(
            f"the model of {recipe.name} cannot make a step ({type(error).__name__}: {reason}); "
            "look at model_cfg"
        ) from error
    count = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    return {"at_once": at_once, **shapes, "trained_parameters": count,
            "seconds": round(time.monotonic() - started, 1)}  # fmt: skip


def _step(backbone: Backbone, recipe: Recipe, at_once: int, tokens: int) -> dict[str, Any]:
    if recipe.checkpoint_activations:
        backbone.towers.set_grad_checkpointing()
    optimizer = build_optimizer(backbone, recipe.loop)
    task = ContrastiveTask(backbone, same_caption=recipe.same_caption)
    size = recipe.backbone.image_size
    pixels = torch.empty(at_once, size, size, 3, dtype=torch.uint8)
    token_ids = torch.empty(at_once, tokens, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.loop.precision == "bf16"):
        images, texts = backbone(pixels, token_ids, tokens)
        features = [images.float(), texts.float()]
        if recipe.same_caption:
            features.append(torch.empty(at_once, dtype=torch.int64))
        loss = task.pair_loss(features)
    loss.backward()
    idle = [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    if idle:
        raise InputError(
            f"{', '.join(idle[:3])} get no gradient in {recipe.name}: look at model_cfg"
        )
    clip_gradients(backbone.parameters(), recipe.loop.clip_norm)
    optimizer.step()
    return {
        "pixels": list(pixels.shape), "token_ids": list(token_ids.shape),
        "features": [list(x.shape) for x in features], "loss": list(loss.shape),
    }  # fmt: skip


def faked(backbone: Backbone) -> Backbone:
    """Call inside FakeTensorMode: a module of the meta device becomes a fake one of the CPU."""
    for module in backbone.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                module._parameters[name] = nn.Parameter(fake, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    return backbone
