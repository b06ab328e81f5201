"""The calculator of `mmfm train --plan`: a speed that it foretells, against the one measured.

The utilisation that a training step of train/tiny.py reaches on this processor, one thread, gives
the speed of a model of several times the operations. `ours` is foretold, `peer` is measured, so the
nearer `ratio` is to 1 the better the plan; the speed itself has no gate.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import Rounds, interleave, report, versions

RECIPE = Path(__file__).parents[1] / "train" / "tiny.py"
LARGER = {
    "model_cfg.vision_cfg.width": "384", "model_cfg.vision_cfg.layers": "6",
    "model_cfg.text_cfg.width": "256", "model_cfg.text_cfg.heads": "4",
}  # fmt: skip
LEAST = 4  # times the operations
PEAK = 1e11  # operations a second; any figure, since the utilisation is a share of it


def training_step(model_cfg: dict[str, Any], count: int) -> Callable[[], None]:
    """Forward, backward and update on `count` pictures of noise with the longest of texts."""
    import numpy as np
    import torch

    from mmfm.config import BackboneConfig
    from mmfm.data.batch import Batch
    from mmfm.encoders.backbone import Backbone
    from mmfm.training.contrastive import ContrastiveTask
    from mmfm.training.loop_config import LoopConfig
    from mmfm.training.optim import build_optimizer

    config = BackboneConfig(model_cfg=model_cfg, preprocess_cfg={})
    module = Backbone.from_config(config).train()
    task = ContrastiveTask(module)
    optimizer = build_optimizer(module, LoopConfig(num_steps=1))
    size = model_cfg["vision_cfg"]["image_size"]
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    words = " ".join(["word"] * (model_cfg["text_cfg"]["context_length"] - 2))
    batch = Batch(pixels, [(words,)] * count, np.arange(count), [""] * count)

    def step() -> None:
        task.loss(batch, torch.Generator())[0].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main(count: int, rounds: int) -> None:
    import torch

    from mmfm.config import override
    from mmfm.training.plan import GIB, Gpu, plan
    from mmfm.training.recipe import Cluster, load_recipe

    torch.set_num_threads(1)
    small = load_recipe(str(RECIPE), ["text_tokens=32", f"batch_size={count}"])
    large = override(small, LARGER)
    here = Gpu(PEAK, GIB)
    flops = [plan(one, here)["training_flops"]["per_sample"] for one in (small, large)]

    def foretold(seconds: float) -> float:
        """Seconds of a step of the large model, from those of the small one."""
        used = count * flops[0] / seconds / PEAK
        cluster = Cluster(nodes=1, gpus=1, utilisation=min(1.0, used), worker_rate=1e9)
        rate = plan(replace(large, cluster=cluster), here)["time"]["samples_per_second"]
        return count / rate

    measured = interleave(*(training_step(r.model_cfg, count) for r in (small, large)), rounds)
    times = flops[1] / flops[0]
    report(
        "plan", f"a training step of {times:.1f} times the operations, batch {count}",
        Rounds([foretold(one) for one in measured.ours], measured.peer, None, None), amount=count,
        unit="samples", gate={"operations": round(times, 2)}, equal=times >= LEAST,
        peer_version=f"measured, {versions('torch')}, {os.cpu_count()} processors",
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64, help="samples of a step (default: 64)")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (default: 5)")
    parser.add_argument("--model", help="not used: the models are those of the recipe")
    given = parser.parse_args()
    if min(given.batch, given.rounds) < 1:
        parser.error(f"--batch {given.batch} and --rounds {given.rounds}: wanted at least 1 each")
    main(given.batch, given.rounds)
