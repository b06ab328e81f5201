"""Pairs that a model ranks itself: it draws several pictures a prompt and judges them.

Its judgement is that of its own backbone (how near the picture's vector is to the prompt's) and of
its own caption head (how likely the prompt is as a caption of the picture), in equal parts. What it
likes is not what is true: measure with something else what tuning on such pairs has done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmfm.decoder.sampler import picture_seed
from mmfm.errors import InputError
from mmfm.model import MMFM
from mmfm.training.preference import PAIRS

Scorer = Callable[[Sequence[Any], Sequence[str]], np.ndarray]  # pictures, prompts -> (N,) scores
_CHUNK = 16  # prompts drawn at once; what a kill can lose


def own_scores(model: MMFM, pictures: Sequence[Any], prompts: Sequence[str]) -> np.ndarray:
    """(N, 2): cosine of picture and prompt, and mean log p of the prompt as a caption."""
    images, texts = model.embed_images(list(pictures)), model.embed_texts(list(prompts))
    near = (images * texts).sum(axis=1)
    return np.stack([near, model.caption_score(list(pictures), list(prompts))], axis=1)


def standing(scores: np.ndarray) -> np.ndarray:
    """(N, K, S) scores of K pictures of each of N prompts -> (N, K): the mean over the S scores,
    each brought to mean 0 and variance 1 among the pictures of its prompt.
    """
    centred = scores - scores.mean(axis=1, keepdims=True)
    return (centred / np.maximum(scores.std(axis=1, keepdims=True), 1e-8)).mean(axis=2)


def rank_pairs(
    model: MMFM, prompts: Sequence[str], folder: Path, *, candidates: int = 4, seed: int = 0,
    num_steps: int | None = None,
) -> int:  # fmt: skip
    """Write the best and the worst of `candidates` pictures of each prompt as pairs of a folder.

    Prompts that the folder has already are left alone, so a run that was killed goes on. Returns
    the number of new pairs. Raises InputError for fewer than two candidates.
    """
    if candidates < 2:
        raise InputError(f"candidates is {candidates}; a pair needs at least 2 pictures")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / PAIRS
    known = _known(file)
    new = [(i, p) for i, p in enumerate(dict.fromkeys(prompts)) if p not in known]
    for start in range(0, len(new), _CHUNK):
        part = new[start : start + _CHUNK]
        asked = [prompt for _, prompt in part]
        pictures = model.generate(
            asked, num_images=candidates, num_steps=num_steps, seed=picture_seed(seed, part[0][0])
        )
        scores = own_scores(model, pictures, [p for p in asked for _ in range(candidates)])
        ranks = standing(scores.reshape(len(part), candidates, -1))
        lines = []
        for row, (number, prompt) in enumerate(part):
            best, worst = int(ranks[row].argmax()), int(ranks[row].argmin())
            names = (f"{number:06d}-chosen.png", f"{number:06d}-rejected.png")
            for name, which in zip(names, (best, worst), strict=True):
                pictures[row * candidates + which].save(folder / name)
            lines.append(json.dumps({"prompt": prompt, "chosen": names[0], "rejected": names[1]}))
        with open(file, "a") as out:  # the pictures are there before the line that names them
            out.write("".join(line + "\n" for line in lines))
            out.flush()
            os.fsync(out.fileno())
    return len(new)


def _known(file: Path) -> set[str]:
    """Prompts of whole lines; what a kill cut off in the last line is taken away."""
    if not file.exists():
        return set()
    text = file.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole)
    return {json.loads(line)["prompt"] for line in whole.splitlines()}


def win_rate(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Share of prompts where ours scores higher; a tie counts half."""
    return float(((ours > theirs) + 0.5 * (ours == theirs)).mean())
