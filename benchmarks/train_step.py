"""One contrastive training step on a CPU: mmfm's against open_clip's own `train_one_epoch`.

Same weights, pictures and captions of the gallery, float32, AdamW, one thread. The steps are the
same mathematics (the parameters after one are compared), except where the case says not. Gradient
caching is compared with our own plain step on an eighth of its batch.
"""

from __future__ import annotations

import argparse
import copy
import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import Rounds, interleave, report
from benchmarks._memory import can_measure, measure, report_memory

NAME = "train_step"
SHORT = ("{}", "an emoji of {}", "a drawing of {}")
LONG = (  # about 14 tokens and seldom more than 20, as captions of photographs in COCO
    "a drawing of {} in bright colours on a white background",
    "{} drawn by hand with a few soft lines",
    "a small flat picture that shows {} in the middle of an empty page",
)
DROP = 0.5  # of the patches
TIMES, PARTS = 8, 32  # the cached batch, in plain ones; its parts
NEAR = (
    5e-5  # a tenth of what a step moves most parameters; Adam blows rounding of small gradients up
)
TOLERANCE = 2e-5  # of a loss, and of a gradient as a share of the largest
MMFM = "mmfm, its plain step"


def architecture(name: str) -> dict[str, Any]:
    """open_clip's `model_cfg` of an architecture that it knows, or of a bundle folder."""
    import open_clip

    if Path(name).is_dir():
        return json.loads((Path(name) / "open_clip_config.json").read_text())["model_cfg"]
    return open_clip.get_model_config(name)


def samples(count: int, size: int, templates: tuple[str, ...] = SHORT) -> Any:
    """A `Batch` of drawings of the gallery, one caption each."""
    import numpy as np

    from mmfm.cli import gallery
    from mmfm.data.batch import Batch
    from mmfm.preprocess.images import load_image

    drawings = gallery.read()
    chosen = [drawings[i % len(drawings)] for i in range(count)]
    pixels = [np.asarray(load_image(drawing.path).resize((size, size))) for drawing in chosen]
    captions = [(templates[i % 3].format(drawing.text),) for i, drawing in enumerate(chosen)]
    return Batch(np.stack(pixels), captions, np.arange(count), [f"{i:06d}" for i in range(count)])


def arguments(batch_size: int) -> Namespace:
    """open_clip_train's settings for a ViT, with its own defaults, after its `main` was entered."""
    from open_clip_train.params import parse_args

    words = ["--model", "ViT", "--precision", "fp32", "--device", "cpu"]
    given = parse_args([*words, "--batch-size", str(batch_size)])
    given.rank, given.local_rank, given.world_size = 0, 0, 1
    given.distributed, given.distill, given.wandb = False, False, False
    return given


class Ours:
    """What the training loop does with a `ContrastiveTask`, but for the averaged weights."""

    def __init__(self, model_cfg: dict[str, Any], dropout: float = 0.0) -> None:
        import torch
        from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

        from mmfm.config import BackboneConfig
        from mmfm.encoders.backbone import Backbone
        from mmfm.training.contrastive import ContrastiveTask
        from mmfm.training.loop_config import LoopConfig
        from mmfm.training.optim import build_optimizer

        torch.set_num_threads(1)
        torch.manual_seed(0)
        vision = {**model_cfg["vision_cfg"], "patch_dropout": dropout}
        self.size = vision["image_size"]
        pixels = {"size": self.size, "mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD}
        config = BackboneConfig(
            model_cfg={**model_cfg, "vision_cfg": vision}, preprocess_cfg=pixels, loss="softmax"
        )
        self.backbone = Backbone.from_config(config).train()
        self.task = ContrastiveTask(self.backbone)
        same = arguments(1)
        settings = LoopConfig(
            num_steps=1, learning_rate=same.lr, weight_decay=same.wd, beta2=same.beta2
        )
        self.optimizer = build_optimizer(self.backbone, settings)
        for group in self.optimizer.param_groups:
            group["eps"] = same.eps

    def gradient(self, batch: Any, parts: int = 1) -> None:
        """Forward and backward."""
        import torch

        from mmfm.training.accumulate import backward

        backward(self.task, batch, parts, lambda part: torch.Generator().manual_seed(part))

    def step(self, batch: Any, parts: int = 1, clip: float = float("inf")) -> None:
        """Forward, backward, the gradient's norm and clipping, update."""
        from mmfm.training.optim import clip_gradients

        self.gradient(batch, parts)
        clip_gradients(self.backbone.parameters(), clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class Peer:
    """open_clip_train; what its loader would give is ready."""

    def __init__(self, ours: Ours, batch: Any) -> None:
        import torch
        from open_clip.loss import ClipLoss

        self.arguments = arguments(len(batch))
        self.model = copy.deepcopy(ours.backbone.towers).train()
        self.model.output_dict = True  # as its main creates the model
        self.model.visual.patch_dropout = torch.nn.Identity()
        pixels = ours.backbone.normalise(torch.from_numpy(batch.images)).contiguous()
        token_ids = ours.backbone.tokenize([captions[0] for captions in batch.captions])
        loader = _OneBatch([(pixels, token_ids)])
        loader.num_batches, loader.num_samples = 1, len(batch)
        self.data = {"train": Namespace(dataloader=loader, set_epoch=lambda epoch: None)}
        self.loss = ClipLoss(cache_labels=True)
        named = list(self.model.named_parameters())
        settings = self.arguments
        plain = [parameter for name, parameter in named if _excluded(name, parameter)]
        rest = [parameter for name, parameter in named if not _excluded(name, parameter)]
        self.optimizer = torch.optim.AdamW(  # as in its main
            [{"params": plain, "weight_decay": 0.0}, {"params": rest, "weight_decay": settings.wd}],
            lr=settings.lr, betas=(settings.beta1, settings.beta2), eps=settings.eps,
        )  # fmt: skip

    def step(self) -> None:
        from open_clip_train.train import train_one_epoch

        train_one_epoch(
            self.model, self.data, self.loss, 0, self.optimizer, None, lambda step: None, None,
            self.arguments,
        )  # fmt: skip


class _OneBatch(list):
    """A loader of one batch; open_clip asks it for num_batches and num_samples."""


def _excluded(name: str, parameter: Any) -> bool:
    parts = ("bn", "ln", "bias", "logit_scale")
    return parameter.ndim < 2 or any(part in name for part in parts)


def against_open_clip(name: str, batch: Any, length: str, rounds: int, dropout: float) -> None:
    """Measure and print a case: without dropout the same mathematics as the peer's step."""
    import torch

    ours = Ours(architecture(name), dropout)
    peer = Peer(ours, batch)
    name = Path(name).name
    tolerance = NEAR if dropout == 0 else TOLERANCE
    if dropout == 0:
        case = f"{name}, batch {len(batch)}, {length}: same mathematics"
        ours.step(batch)
        peer.step()
        pairs = zip(ours.backbone.towers.parameters(), peer.model.parameters(), strict=True)
        gap = max((a - b).abs().max().item() for a, b in pairs)
        gate = {"parameter_difference": float(f"{gap:.2g}")}
    else:
        case = f"{name}, batch {len(batch)}, {length}: patch dropout {dropout:g}, the peer without"
        [inputs] = peer.data["train"].dataloader
        with torch.no_grad():  # the same loss while nothing is dropped
            ours.backbone.eval()
            loss = ours.task.loss(batch, torch.Generator())[0].item()
            ours.backbone.train()
            gap = abs(loss - peer.loss(**peer.model(*inputs)).item())
        gate = {"loss_difference_without": float(f"{gap:.2g}")}
    measured = interleave(lambda: ours.step(batch), peer.step, rounds)
    report(
        NAME, case, measured, amount=len(batch), unit="samples", gate=gate, equal=gap <= tolerance
    )


def caching(name: str, count: int) -> None:
    """Time and memory of a batch `TIMES` as large in parts, against our plain step."""
    gap = cached_difference(name)
    gate, equal = {"gradient_difference": float(f"{gap:.2g}")}, gap <= TOLERANCE
    if not can_measure():
        return
    case = f"{Path(name).name}, batch {TIMES * count} in {PARTS} parts, against {count} in one"
    before, cached, after = (
        measure(training, name, *what) for what in ((count, 1), (TIMES * count, PARTS), (count, 1))
    )
    plain = TIMES * (before.seconds + after.seconds) / 2  # for the same number of samples
    report(
        NAME, case, Rounds([cached.seconds], [plain], None, None), amount=TIMES * count,
        unit="samples", gate=gate, equal=equal, peer_version=MMFM,
    )  # fmt: skip
    report_memory(
        NAME, case, cached.peak - cached.empty, after.peak - after.empty, gate=gate, equal=equal,
        peer_version=MMFM,
    )  # fmt: skip


def cached_difference(name: str) -> float:
    """How far gradients in parts are from the plain ones, as a share of the largest of all."""
    ours = Ours(architecture(name))
    batch = samples(8, ours.size)
    found = []
    for parts in (1, 4):
        ours.gradient(batch, parts)
        found.append([p.grad for p in ours.backbone.parameters() if p.grad is not None])
        ours.optimizer.zero_grad(set_to_none=True)
    plain, cached = found
    gap = max((a - b).abs().max().item() for a, b in zip(cached, plain, strict=True))
    return gap / max(gradient.abs().max().item() for gradient in plain)


def training(name: str, count: int, parts: int) -> Callable[[], None]:
    """A training in its second step: weights, the optimizer's state and some memory are there."""
    ours = Ours(architecture(name))
    batch = samples(count, ours.size)
    ours.step(batch[: count // parts], clip=1.0)
    return lambda: ours.step(batch, parts, clip=1.0)


def main(name: str, count: int, rounds: int) -> None:
    import torch

    torch.set_num_threads(1)
    for templates, dropouts in ((SHORT, (0.0, DROP)), (LONG, (0.0,))):
        ours = Ours(architecture(name))
        batch = samples(count, ours.size, templates)
        token_ids = ours.backbone.tokenize([captions[0] for captions in batch.captions])
        mean = float((token_ids != 0).sum(1).float().mean())
        longest, room = ours.backbone.text_length(token_ids), token_ids.shape[1]
        length = f"captions of {mean:.0f}, up to {longest} of {room} tokens"
        del ours
        for dropout in dropouts:
            against_open_clip(name, batch, length, rounds, dropout)
    caching(name, 3 * count)  # the larger the batch, the less of the memory is weights


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", default="ViT-B-32", help="an open_clip architecture, or a bundle folder"
    )
    parser.add_argument("--batch", type=int, default=16, help="pairs of a step (default: 16)")
    parser.add_argument("--rounds", type=int, default=2, help="measured rounds (default: 2)")
    given = parser.parse_args()
    if given.batch < 2 or given.rounds < 1:
        parser.error(f"--batch is {given.batch}, --rounds {given.rounds}: wanted at least 2 and 1")
    main(given.model, given.batch, given.rounds)
