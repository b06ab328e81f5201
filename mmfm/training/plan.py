"""What a recipe takes: parameters, operations, memory of each GPU, time, and what the disks give.

Nothing is built and no data is read; the formulas are those of `mmfm.training.costs`, and tests
hold them to what small real runs measure. Bytes are bytes, operations are floating-point ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from mmfm.errors import InputError
from mmfm.training.costs import TowerCost, image_tower, scalar_parameters, text_tower
from mmfm.training.recipe import Recipe

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """What its maker publishes: dense bf16 operations a second, and memory in bytes."""

    flops: float
    memory: float


GPUS = {  # NVIDIA's data sheets, without sparsity; memory as the driver reports it, rounded down
    "A100-40": Gpu(312e12, 39 * GIB),
    "A100-80": Gpu(312e12, 79 * GIB),
    "H100": Gpu(989e12, 79 * GIB),
    "H200": Gpu(989e12, 139 * GIB),
    "L40S": Gpu(362e12, 44 * GIB),
}
RESERVE = 2 * GIB  # CUDA, NCCL and cuBLAS of a process, before any tensor
FRAGMENTS = 0.05  # of everything else: what the allocator cannot use
LOSS_TILE = 4096  # side of a tile of logits on a GPU (mmfm.training.losses)


def plan(recipe: Recipe, gpu: Gpu | None = None) -> dict[str, Any]:
    """Everything that `mmfm train --plan` prints, as plain JSON types.

    gpu: instead of the one that the recipe names. Raises InputError for a GPU that is not known, a
    batch that cannot be shared, or a model without a formula.
    """
    cluster = recipe.cluster
    gpu = gpu or _gpu(cluster.gpu)
    images, texts = image_tower(recipe.model_cfg), text_tower(recipe.model_cfg, recipe.text_tokens)
    per_sample = sample_flops(recipe, images, texts)
    memory = gpu_memory(recipe, images, texts)
    needed = sum(memory.values())
    compute = cluster.ranks * gpu.flops * cluster.utilisation / per_sample["total"]
    loader = cluster.ranks * max(1, recipe.workers) * cluster.worker_rate
    rate = min(compute, loader)
    seconds = recipe.samples_seen / rate
    towers = images.parameters, texts.parameters, scalar_parameters(recipe.model_cfg)
    return {
        "recipe": recipe.name,
        "parameters": {"image": towers[0], "text": towers[1], "total": sum(towers)},
        "forward_flops": {"image": images.forward_flops, "text": texts.forward_flops},
        "training_flops": {
            "per_sample": per_sample["total"],
            "of_which": per_sample,
            "total": per_sample["total"] * recipe.samples_seen,
        },
        "tokens": {"image": images.tokens, "text": texts.tokens},
        "batch": {
            "global": recipe.batch_size,
            "per_gpu": recipe.local_batch(cluster.ranks),
            "at_once": recipe.local_batch(cluster.ranks) // recipe.loop.accumulate,
            "steps": recipe.loop.num_steps,
        },
        "memory": {
            **memory, "total": needed, "of": gpu.memory, "fits": needed <= gpu.memory,
            "fits_with_accumulate": least_accumulate(recipe, gpu),
        },
        "time": {
            "gpus": cluster.ranks, "gpu": cluster.gpu, "parallel": recipe.loop.parallel,
            "precision": recipe.loop.precision, "utilisation": cluster.utilisation,
            "peak_flops": gpu.flops, "samples_per_second": rate,
            "bound_by": "compute" if compute <= loader else "loader",
            "compute_samples_per_second": compute, "loader_samples_per_second": loader,
            "compute_days": recipe.samples_seen / compute / 86400,
            "seconds_per_step": recipe.batch_size / rate,
            "days": seconds / 86400, "gpu_hours": cluster.ranks * seconds / 3600,
        },
        "data": {
            "samples": recipe.num_samples, "samples_seen": recipe.samples_seen,
            "epochs": recipe.samples_seen / recipe.num_samples,
            "bytes": recipe.num_samples * recipe.sample_bytes,
            "samples_per_second_per_node": compute / cluster.nodes,
            "bytes_per_second_per_node": compute / cluster.nodes * recipe.sample_bytes,
            "workers_per_gpu": recipe.workers, "worker_rate": cluster.worker_rate,
            "workers_per_gpu_needed": math.ceil(compute / cluster.ranks / cluster.worker_rate),
        },
    }  # fmt: skip


def sample_flops(recipe: Recipe, images: TowerCost, texts: TowerCost) -> dict[str, float]:
    """Operations of one sample in one training step, by what they are for.

    Gradient caching runs the towers forward once more, but for the last of its parts. The loss
    compares a sample with the whole batch four times: logits, logits again, two gradients.
    """
    again = recipe.checkpoint_activations
    towers = {"image": images.training_flops(again), "text": texts.training_flops(again)}
    twice = 1 - 1 / recipe.loop.accumulate
    caching = twice * (images.forward_flops + texts.forward_flops)
    loss = 8.0 * recipe.batch_size * images.embed_dim
    parts = {**towers, "gradient_caching": caching, "loss": loss}
    return {**parts, "total": sum(parts.values())}


def gpu_memory(recipe: Recipe, images: TowerCost, texts: TowerCost) -> dict[str, float]:
    """Bytes on the fullest GPU at the fullest moment, by what they are for."""
    ranks, half = recipe.cluster.ranks, recipe.loop.precision == "bf16"
    sharded = recipe.loop.parallel == "fsdp2" and ranks > 1
    at_once = recipe.local_batch(ranks) // recipe.loop.accumulate
    count = images.parameters + texts.parameters + scalar_parameters(recipe.model_cfg)
    held = 4.0 * count / (ranks if sharded else 1)
    # autograd keeps autocast's 16-bit copies of the matrices until the backward pass has used them
    copies = 2.0 * count if half else 0.0
    if sharded:  # gathered, weights and gradients: what is outside the blocks, and two blocks
        block = max(images.block_parameters, texts.block_parameters)
        copies += 2 * 4.0 * (images.outside + texts.outside + 2 * block)
    saved = [t.saved_bytes(half, recipe.checkpoint_activations) for t in (images, texts)]
    widest = max(t.tokens * t.mlp_width for t in (images, texts))
    dim = images.embed_dim
    tile = min(LOSS_TILE, recipe.local_batch(ranks)) * min(LOSS_TILE, recipe.batch_size)
    parts = {
        "weights": held,
        "gradients": held,
        "optimizer": 2 * held,
        "average": held if recipe.loop.ema_decay else 0.0,
        "copies": copies,
        "activations": at_once * sum(saved),
        # the backward pass holds gradients of the widest layer's input and output beside them
        "workspace": 2.0 * at_once * widest * (2 if half else 4),
        # own features and gradients of them, all texts and gradients of them
        "features": 4.0 * dim * (4 * recipe.local_batch(ranks) + 2 * recipe.batch_size),
        "logits": 3 * 4.0 * tile,
    }
    return {**parts, "reserve": RESERVE + FRAGMENTS * sum(parts.values())}


def least_accumulate(recipe: Recipe, gpu: Gpu) -> int | None:
    """The smallest loop.accumulate with which a GPU's share of the batch fits, or None."""
    images, texts = image_tower(recipe.model_cfg), text_tower(recipe.model_cfg, recipe.text_tokens)
    ranks = recipe.cluster.ranks
    if recipe.batch_size % ranks:
        return None
    local = recipe.batch_size // ranks
    for parts in (n for n in range(1, local + 1) if local % n == 0):
        split = replace(recipe, loop=replace(recipe.loop, accumulate=parts))
        if sum(gpu_memory(split, images, texts).values()) <= gpu.memory:
            return parts
    return None


def _gpu(name: str) -> Gpu:
    if name not in GPUS:
        raise InputError(f"cluster.gpu is {name!r}; the plan knows {', '.join(GPUS)}")
    return GPUS[name]


def lines(found: dict[str, Any]) -> list[str]:
    """A plan in words, one line a subject."""
    parameters, flops, memory = found["parameters"], found["training_flops"], found["memory"]
    forward, time, data, batch = (found[k] for k in ("forward_flops", "time", "data", "batch"))
    parts = {k: v for k, v in memory.items() if k not in ("total", "of", "fits",
             "fits_with_accumulate")}  # fmt: skip
    least = memory["fits_with_accumulate"]
    advice = "it fits" if memory["fits"] else (
        f"it does NOT fit; loop.accumulate={least} does" if least else
        "it does NOT fit, not even sample by sample; try loop.parallel=fsdp2 or "
        "checkpoint_activations=true"
    )  # fmt: skip
    return [
        f"recipe       {found['recipe']}",
        f"parameters   {parameters['total'] / 1e6:.1f} M: image {parameters['image'] / 1e6:.1f} M, "
        f"text {parameters['text'] / 1e6:.1f} M",
        f"forward      {forward['image'] / 1e9:.2f} GFLOP an image, {forward['text'] / 1e9:.2f} "
        f"GFLOP a text of {found['tokens']['text']} tokens",
        f"training     {flops['per_sample'] / 1e9:.1f} GFLOP a sample, {flops['total']:.3g} FLOP "
        f"in all, {found['tokens']['image']} image tokens",
        f"batch        {batch['global']} = {time['gpus']} GPUs x {batch['per_gpu']}, "
        f"{batch['at_once']} at once; {batch['steps']} steps",
        f"memory       {memory['total'] / GIB:.1f} of {memory['of'] / GIB:.0f} GiB on each GPU: "
        f"{advice}",
        *(f"  {name:<11}{value / GIB:8.2f} GiB" for name, value in parts.items()),
        f"time         {time['compute_samples_per_second']:,.0f} samples/s and "
        f"{time['compute_days']:.2f} days when the GPUs are the limit",
        f"             ({time['gpus']} x {time['gpu']} at {time['utilisation']:.0%} of "
        f"{time['peak_flops'] / 1e12:.0f} TFLOP/s, {time['precision']}, {time['parallel']})",
        f"             {time['samples_per_second']:,.0f} samples/s, "
        f"{time['seconds_per_step']:.2f} s a step, {time['days']:.2f} days, "
        f"{time['gpu_hours']:,.0f} GPU hours with {max(1, data['workers_per_gpu'])} loader "
        f"processes a GPU: bound by the {time['bound_by']}",
        f"data         {data['samples']:,} samples, {data['bytes'] / 1e12:.2f} TB, "
        f"{data['epochs']:.1f} epochs ({data['samples_seen']:,} seen)",
        f"loader       to feed the GPUs: {data['samples_per_second_per_node']:,.0f} samples/s and "
        f"{data['bytes_per_second_per_node'] / 1e6:,.0f} MB/s a node, that is "
        f"{data['workers_per_gpu_needed']} processes a GPU at {data['worker_rate']:.0f} samples/s",
    ]  # fmt: skip
