"""ViT-B/32, softmax loss, on image-text pairs from the web.

    torchrun --nnodes=8 --nproc-per-node=8 -m mmfm train train/vit_b_32.py \\
        data='s3://bucket/datacomp/{00000..12895}.tar' held_out=data/held_out -o runs/vit_b_32

Model, batch, rate and warm-up are CLIP's (2103.00020, tables 19 and 20), with which open_clip
reached 62.96 % zero-shot on ImageNet after 12.8 billion samples of LAION-400M, on 128 A100 in 36
hours (its docs/PRETRAINED.md). On fewer nodes the batch stays, split by `loop.accumulate`:
`mmfm train train/vit_b_32.py --plan cluster.nodes=1` says what fits.

Planned, not run. 151 M parameters, 44.4 GFLOP a sample, 23 of 79 GiB on each of 64 H100. 0.26 days
where the GPUs are the limit and reach 40 % of their peak; 0.36 days with 16 loader processes a GPU
that decode 400 samples a second each. The runs that open_clip publishes reached 12 % on A100.
"""

from __future__ import annotations

from mmfm.training.loop_config import LoopConfig
from mmfm.training.recipe import Cluster, Recipe

BATCH_SIZE = 32_768
SAMPLES_SEEN = 12_800_000_000


def recipe() -> Recipe:
    """The complete settings; `key=value` on the command line changes any of them."""
    return Recipe(
        name="vit_b_32",
        model_cfg={
            "embed_dim": 512,
            "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32,
                           "patch_dropout": 0.0},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8,
                         "layers": 12},
        },
        loss="softmax",
        num_samples=1_280_000_000,
        sample_bytes=20_000,
        batch_size=BATCH_SIZE,
        workers=16,
        loop=LoopConfig(
            num_steps=SAMPLES_SEEN // BATCH_SIZE, learning_rate=5e-4, warmup_steps=2000,
            final_rate=0.0, weight_decay=0.2, beta2=0.98, ema_decay=0.9999, clip_norm=1.0,
            log_every=100, evaluate_every=5000, save_every=1000, precision="bf16",
        ),
        cluster=Cluster(nodes=8, gpus=8, gpu="H100"),
    )  # fmt: skip
