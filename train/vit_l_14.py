"""ViT-L/14, softmax loss, on DataComp-1B or pairs like it.

    torchrun --nnodes=32 --nproc-per-node=8 -m mmfm train train/vit_l_14.py \\
        data='s3://bucket/datacomp/{00000..140146}.tar' held_out=data/held_out -o runs/vit_l_14

Model, batch, rate, warm-up and beta2 are DataComp's at its largest scale (2304.14108, its
scale_configs.py), with which it reached 79.2 % zero-shot on ImageNet after 12.8 billion samples.
On fewer nodes the batch stays, split by `loop.accumulate`; half of the patches dropped in training
(`model_cfg.vision_cfg.patch_dropout=0.5`, FLIP, 2212.00794) takes about half of the time.

Planned, not run. 428 M parameters, 617 GFLOP a sample with gradient caching in two parts, 57 of 79
GiB on each of 256 H100, 0.90 days at 40 % of their peak. The L/14 that open_clip publishes reached
13 % on A100.
"""

from __future__ import annotations

from mmfm.training.loop_config import LoopConfig
from mmfm.training.recipe import Cluster, Recipe

BATCH_SIZE = 90_112
SAMPLES_SEEN = 12_800_000_000


def recipe() -> Recipe:
    """The complete settings; `key=value` on the command line changes any of them."""
    return Recipe(
        name="vit_l_14",
        model_cfg={
            "embed_dim": 768,
            "vision_cfg": {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14,
                           "patch_dropout": 0.0},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 768, "heads": 12,
                         "layers": 12},
        },
        loss="softmax",
        num_samples=1_280_000_000,
        sample_bytes=20_000,
        batch_size=BATCH_SIZE,
        workers=12,
        loop=LoopConfig(
            num_steps=SAMPLES_SEEN // BATCH_SIZE, learning_rate=1e-3, warmup_steps=10_000,
            final_rate=0.0, weight_decay=0.2, beta2=0.95, ema_decay=0.9999, clip_norm=1.0,
            accumulate=2, log_every=100, evaluate_every=5000, save_every=500, precision="bf16",
        ),
        cluster=Cluster(nodes=32, gpus=8, gpu="H100"),
    )  # fmt: skip
