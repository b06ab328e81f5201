"""Which sentences help: templates chosen by labelled examples, their number by cross-validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmfm.classify.head import expect_vectors, numbers
from mmfm.classify.templates import DRAWING, LABEL, PHOTO, SIMPLE, read_templates
from mmfm.classify.zero_shot import Labels, read_labels, zero_shot_head
from mmfm.errors import InputError

POOL = tuple(dict.fromkeys((*LABEL, *PHOTO, *DRAWING, *SIMPLE)))
MOST = 6  # templates that are averaged
CLEARLY = 2.0  # standard errors by which another choice must be better than the usual one


class Choice(NamedTuple):
    """templates: those that are averaged; losses: the mean cross-entropy of examples that were held
    out while 1, 2, ... templates were chosen, and at 0 that of the words alone.
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
    is what does best on held-out examples. The words alone stay unless that is better by more than
    two standard errors over the examples: by few of them, templates are chosen that harm.
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
    held = np.empty((1 + most, len(y)))  # the loss of each example while it was held out
    held[0] = _losses(table[:1], vectors, y, scale)
    if len(np.unique(fold)) < 2:  # a single example: nothing to choose by
        return Choice(LABEL, [float(held[0].mean())])
    for one in np.unique(fold):
        test = fold == one
        path = _greedy(table, vectors[~test], y[~test], scale, most)
        for size in range(1, most + 1):
            held[size, test] = _losses(table[path[:size]], vectors[test], y[test], scale)
    losses = [float(loss) for loss in held.mean(axis=1)]
    size = int(np.argmin(losses))
    if not is_clear(held[0] - held[size]):
        return Choice(LABEL, losses)
    path = _greedy(table, vectors, y, scale, size)
    return Choice(tuple(sentences[place - 1] for place in path), losses)


def is_clear(gains: np.ndarray) -> bool:
    """Whether the mean of (N,) gains, one an example, is above zero by `CLEARLY` errors of it."""
    return bool(gains.mean() > CLEARLY * gains.std() / np.sqrt(len(gains)))


def _greedy(
    table: np.ndarray, vectors: np.ndarray, y: np.ndarray, scale: float, count: int
) -> list[int]:
    """Places of `count` templates in the table, in the order in which they were added."""
    path: list[int] = []
    while len(path) < count:
        left = [place for place in range(1, len(table)) if place not in path]
        path.append(min(left, key=lambda p: _losses(table[[*path, p]], vectors, y, scale).mean()))
    return path


def _losses(some: np.ndarray, vectors: np.ndarray, y: np.ndarray, scale: float) -> np.ndarray:
    """(N,) cross-entropy under the average of some templates (T, L, D)."""
    mean = some.mean(axis=0)
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
    logits = scale * vectors @ mean.T
    return np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(y)), y]
