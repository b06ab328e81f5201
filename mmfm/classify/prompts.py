"""Which sentences help: templates chosen by labelled examples, their number by cross-validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmfm.classify.calibration import negative_log_likelihood
from mmfm.classify.head import expect_vectors, numbers
from mmfm.classify.templates import DRAWING, LABEL, PHOTO, SIMPLE, read_templates
from mmfm.classify.zero_shot import Labels, read_labels, zero_shot_head
from mmfm.errors import InputError

POOL = tuple(dict.fromkeys((*LABEL, *PHOTO, *DRAWING, *SIMPLE)))
MOST = 6  # templates that are averaged


class Choice(NamedTuple):
    """templates: those that are averaged; loss: their cross-entropy on examples that were held out
    while templates were chosen, for 1, 2, ... of them, and at 0 that of the words alone.
    """

    templates: tuple[str, ...]
    losses: list[float]


def choose_templates(
    vectors: np.ndarray, targets: Sequence[str], labels: Labels,
    embed_texts: Callable[[list[str]], np.ndarray], *, scale: float, pool: Any = POOL,
    folds: int = 5, seed: int = 0,
) -> Choice:  # fmt: skip
    """Templates of the pool whose zero-shot head fits the examples, and no more of them than help.

    Added one at a time, always the one that lowers the cross-entropy of the examples most; how many
    is what does best on held-out examples. The words alone stay where no choice is better.
    vectors: (N, D) unit, of pictures, and their targets. scale: of cosines. Other arguments as in
    `zero_shot_head`, whose TextErrors they raise; InputError on targets that no label names.
    """
    vectors = expect_vectors(vectors)
    words = read_labels(labels)
    y = numbers(targets, tuple(words))
    if len(vectors) != len(y) or not len(y) or folds < 2:
        raise InputError(
            f"got {len(vectors)} vectors, {len(y)} labels and {folds} folds; wanted as many of the "
            "former, and two folds"
        )
    sentences = read_templates(pool)
    heads = [
        zero_shot_head(embed_texts, words, [one], scale=1.0).weight for one in (*LABEL, *sentences)
    ]
    table = np.stack(heads).astype(np.float64)  # (1 + T, L, D), the words alone first
    fold = np.random.default_rng(seed).permutation(len(y)) % folds
    most = min(MOST, len(sentences))
    losses = np.zeros(1 + most)
    for one in np.unique(fold):
        test = fold == one
        losses[0] += test.sum() * _loss(table[:1], vectors[test], y[test], scale)
        if test.all():  # a single example: nothing to choose by
            losses[1:] = np.inf
            break
        path = _greedy(table, vectors[~test], y[~test], scale, most)
        for size in range(1, most + 1):
            losses[size] += test.sum() * _loss(table[path[:size]], vectors[test], y[test], scale)
    losses /= len(y)
    size = int(losses.argmin())
    path = _greedy(table, vectors, y, scale, size)
    chosen = tuple(sentences[place - 1] for place in path) if size else LABEL
    return Choice(chosen, [float(loss) for loss in losses])


def _greedy(
    table: np.ndarray, vectors: np.ndarray, y: np.ndarray, scale: float, count: int
) -> list[int]:
    """Places of `count` templates in the table, in the order in which they were added."""
    path: list[int] = []
    while len(path) < count:
        left = [place for place in range(1, len(table)) if place not in path]
        path.append(min(left, key=lambda p: _loss(table[[*path, p]], vectors, y, scale)))
    return path


def _loss(some: np.ndarray, vectors: np.ndarray, y: np.ndarray, scale: float) -> float:
    mean = some.mean(axis=0)
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
    return negative_log_likelihood(scale * vectors @ mean.T, y, "softmax")
