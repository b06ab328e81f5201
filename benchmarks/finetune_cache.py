"""A second epoch of head-only training: from cached embeddings, against encoding it all again.

Both sides train the caption head of the model on the same pictures and captions, with the same
weights to begin with; the peer runs the frozen image tower in every step, as a training without a
cache does, ours reads what the tower said in the first epoch. The gate is the largest difference
between the losses of both. With `mini`, whose tower is as small as its head, the gain is small; the
case of a published tower (random weights) is the one that is meant.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import interleave, options, report

COUNT, BATCH = 64, 32
CLOSE = 2e-2  # of a loss: cached image tokens are in half precision


def epochs(model: Any, count: int) -> tuple[Callable[[], list[float]], Callable[[], list[float]]]:
    """(cached, encoding): each an epoch over `count` pictures; they return the losses."""
    import copy

    import numpy as np
    import torch

    from mmfm.data.packed import PackedPictures
    from mmfm.finetuning.looking import as_read, look
    from mmfm.shapes import Embeddings
    from mmfm.training.caption import caption_loss
    from mmfm.training.loop_config import LoopConfig
    from mmfm.training.optim import build_optimizer
    from mmfm.training.seen import tokens_of

    size = model.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 4), np.uint8)
    pixels[..., 3] = 255
    names = [(f"picture number {n}",) for n in range(count)]
    pictures = PackedPictures(pixels, names, [{}] * count)
    seen = look(model.backbone, pictures)  # the first epoch

    def cached(rows: np.ndarray) -> Embeddings:
        return seen.take(rows)

    @torch.no_grad()
    def encoding(rows: np.ndarray) -> Embeddings:
        images = torch.from_numpy(pictures.on_ground(rows))
        said = model.backbone.encode_images(as_read(model.backbone, images))
        return Embeddings(said.pooled, tokens_of(said))

    def epoch(take: Callable[[np.ndarray], Embeddings]) -> Callable[[], list[float]]:
        head = copy.deepcopy(model.captioner).train()
        optimizer = build_optimizer(head, LoopConfig(num_steps=1, learning_rate=1e-5))

        def go() -> list[float]:
            losses = []
            for start in range(0, count, BATCH):
                rows = np.arange(start, min(start + BATCH, count))
                pairs = [("", names[row][0]) for row in rows]
                loss, _ = caption_loss(head, model.vocabulary, take(rows), pairs)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
            return losses

        return go

    return epoch(cached), epoch(encoding)


def main(name: str, architecture: str, rounds: int) -> None:
    import torch

    import mmfm
    from benchmarks._clip import write_open_clip
    from mmfm.finetuning.fresh import with_heads

    torch.set_num_threads(1)
    shipped = mmfm.load(name, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        published = mmfm.load(
            f"local-dir:{write_open_clip(architecture, Path(folder) / 'towers')}", device="cpu"
        )
    published = with_heads(published, ["caption"], ["picture number"], seed=0)
    for model, called in ((shipped, shipped.name), (published, f"{architecture}, random")):
        measured = interleave(*epochs(model, COUNT), rounds)
        far = max(abs(a - b) for a, b in zip(measured.our_output, measured.peer_output))
        report(
            "finetune_cache", f"an epoch of the caption head, {COUNT} pictures, {called}",
            measured, amount=COUNT, unit="pictures", gate={"loss_difference": round(far, 5)},
            equal=far <= CLOSE, peer_version="mmfm, encoding in every step",
        )  # fmt: skip


if __name__ == "__main__":
    chosen = options(__doc__, rounds=3)
    main(chosen.model, chosen.architecture, chosen.rounds)
