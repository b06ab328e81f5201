"""ViT-B/16 with the sigmoid loss, in the manner of SigLIP.

    torchrun --nnodes=16 --nproc-per-node=8 -m mmfm train train/vit_b_16_siglip.py \\
        data='s3://bucket/datacomp/{00000..140146}.tar' held_out=data/held_out -o runs/b16_siglip

Loss, batch of 32 k, start of scale (10) and bias (-10), rate, decay and beta2 are SigLIP's
(2303.15343). Ours differs in three ways, each so that the rest of mmfm can use the model: the
pictures are pooled by the mean of their tokens and not by a head of attention (captioner and
decoder read the grid), the text tower is CLIP's causal one (its padding can be left out exactly),
and its vocabulary is CLIP's, which open_clip carries. The length of 12.8 billion samples and the
warm-up are ours.

Planned, not run. 210 M parameters, 139 GFLOP a sample, 30 of 79 GiB on each of 128 H100, 0.41 days
at 40 % of their peak. The B/16 that open_clip publishes reached 15 % on A100.
"""

from __future__ import annotations

import math

from mmfm.training.loop_config import LoopConfig
from mmfm.training.recipe import Cluster, Recipe

BATCH_SIZE = 32_768
SAMPLES_SEEN = 12_800_000_000


def recipe() -> Recipe:
    """The complete settings; `key=value` on the command line changes any of them."""
    return Recipe(
        name="vit_b_16_siglip",
        model_cfg={
            "embed_dim": 768,
            "init_logit_scale": math.log(10),
            "init_logit_bias": -10.0,
            "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16,
                           "pool_type": "avg", "patch_dropout": 0.0},
            "text_cfg": {"context_length": 64, "vocab_size": 49408, "width": 768, "heads": 12,
                         "layers": 12},
        },
        loss="sigmoid",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        num_samples=1_280_000_000,
        sample_bytes=20_000,
        batch_size=BATCH_SIZE,
        loop=LoopConfig(
            num_steps=SAMPLES_SEEN // BATCH_SIZE, learning_rate=1e-3, warmup_steps=10_000,
            final_rate=0.0, weight_decay=1e-4, beta2=0.95, ema_decay=0.9999, clip_norm=1.0,
            log_every=100, evaluate_every=5000, save_every=1000, precision="bf16",
        ),
        cluster=Cluster(nodes=16, gpus=8, gpu="H100"),
    )  # fmt: skip
