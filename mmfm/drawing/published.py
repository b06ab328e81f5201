"""Drawing with a decoder that others published: its pipeline draws, in batches with our seeds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from mmfm.decoder.published import PublishedDecoder
from mmfm.decoder.sampler import picture_seed
from mmfm.drawing.sampling import Sampling
from mmfm.errors import InputError

TAKEN = ("num_images", "num_steps", "guidance_scale", "seed", "rerank", "output", "progress")


def is_published(decoder: Any) -> bool:
    """Whether a decoder is one of `mmfm.decoder.published`, which draws in its own way."""
    return isinstance(decoder, PublishedDecoder)


def refuse(**asked: Any) -> None:
    """Raises InputError when something is asked for (not None) that no published decoder does."""
    for name, value in asked.items():
        if name not in TAKEN and value is not None:
            raise InputError(
                f"got {name}={value!r}, and a published decoder draws texts, pictures and vectors "
                f"with {', '.join(TAKEN)}; leave it out"
            )


def draw_published(
    decoder: PublishedDecoder, what: list[str] | Tensor, sampling: Sampling,
    negative_prompt: str | None = None,
) -> Tensor:  # fmt: skip
    """(K * num_images * rerank, 3, H, W) in [-1, 1] of K texts or unit vectors (K, D)."""
    draws = [
        (row, picture_seed(sampling.seed, i, k))
        for row in range(len(what)) for i in range(sampling.num_images)
        for k in range(sampling.rerank)
    ]  # fmt: skip
    how: dict[str, Any] = {
        "num_steps": sampling.num_steps, "guidance_scale": sampling.guidance_scale
    }  # fmt: skip
    made, size = [], decoder.batch_size
    with tqdm(total=len(draws), unit="pictures", disable=not sampling.progress, leave=False,
              desc="drawing") as bar:  # fmt: skip
        for start in range(0, len(draws), size):
            rows, seeds = (list(column) for column in zip(*draws[start : start + size]))
            if isinstance(what, Tensor):
                made.append(decoder.decode(what[rows], seeds, **how))
            else:
                texts = [what[row] for row in rows]
                made.append(decoder.draw(texts, seeds, negative_prompt=negative_prompt, **how))
            bar.update(len(rows))
    return torch.cat(made)
