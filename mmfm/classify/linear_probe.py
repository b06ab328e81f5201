"""A linear classifier from labelled vectors: multinomial logistic regression, decay by validation.

The probe of Radford et al. (arXiv:2103.00020, A.3): L-BFGS on frozen features. With a prior, the
decay pulls towards the zero-shot weights instead of zero: without examples it is the zero-shot
head, with many it is the probe, and validation says how far to go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmfm.classify.head import LinearHead, expect_vectors, numbers
from mmfm.errors import InputError

DECAYS = tuple(10.0 ** (-step / 2) for step in range(-6, 17))  # 1e3 to 1e-8, strongest first
DEFAULT_DECAY = 1.0  # where there is too little to validate with (docs/experiments.md)
FOLDS = 5
_PATIENCE = 3  # decays in a row that validate worse than the best, before the rest is left out
_ENOUGH = 2000  # examples held out, after which no further fold is: the score varies little


class _Problem(NamedTuple):
    """x: (N, D) centred, of mean square 1. y: (N,). w, b: what the decay pulls to."""

    x: Tensor
    y: Tensor
    w: Tensor
    b: Tensor

    def rows(self, which: np.ndarray) -> _Problem:
        rows = torch.from_numpy(np.flatnonzero(which))
        return self._replace(x=self.x[rows], y=self.y[rows])

    def float(self) -> _Problem:
        return _Problem(self.x.float(), self.y, self.w.float(), self.b.float())


def fit_linear_probe(
    vectors: np.ndarray, targets: Sequence[str], *, prior: LinearHead | None = None,
    decays: Sequence[float] = DECAYS, folds: int = FOLDS, seed: int = 0, space: str = "",
) -> LinearHead:  # fmt: skip
    """The softmax head that minimises mean cross-entropy + decay / 2 (|W - W0|^2 + |b - b0|^2).

    Vectors are centred and scaled by one number first, so that decays mean the same for all towers.
    vectors: (N, D) unit, of pictures; targets: their N labels. prior: W0, b0 (default zeros); its
    labels are kept, also those without examples. decays: tried from the first to the last, the one
    with the least cross-entropy on `folds` held-out parts (of large sets on the first of them, once
    2,000 examples were held out) is taken; one decay is used as it is. A label with one example is
    never held out.

    Raises InputError on shapes that do not fit, fewer than two labels, or labels that a prior has
    not.
    """
    vectors = expect_vectors(vectors)
    if len(vectors) != len(targets) or not len(targets):
        raise InputError(f"got {len(vectors)} vectors and {len(targets)} labels, wanted as many")
    labels = tuple(sorted(set(targets))) if prior is None else prior.labels
    if len(labels) < 2 or folds < 2 or not decays or min(decays) <= 0:
        raise InputError("a probe needs two labels, two folds, and decays above 0")
    if prior is not None and prior.weight.shape[1] != vectors.shape[1]:
        raise InputError(
            f"the prior reads {prior.weight.shape[1]} numbers, the vectors have {vectors.shape[1]}"
        )
    mean = vectors.mean(axis=0, dtype=np.float64)
    width = float(np.sqrt(np.square(vectors - mean).mean(dtype=np.float64))) or 1.0
    problem = _problem(vectors, numbers(targets, labels), mean, width, len(labels), prior)
    notes: dict[str, Any] = {"kind": "linear probe", "count": len(targets)}
    decay = float(decays[0])
    if len(decays) > 1:
        scores = _validate(problem, [float(decay) for decay in decays], folds, seed)
        decay = min(scores, key=scores.__getitem__) if scores else DEFAULT_DECAY
        notes["validation"] = {f"{one:.3g}": round(score, 6) for one, score in scores.items()}
    w, b = _solve(problem, decay, problem.w, problem.b)
    weight = w.numpy() / width
    bias = b.numpy() - weight @ mean
    notes.update(decay=decay, prior=None if prior is None else prior.notes)
    return LinearHead(
        labels, weight.astype(np.float32), bias.astype(np.float32), "softmax", space, notes
    )


def _problem(
    vectors: np.ndarray, targets: np.ndarray, mean: np.ndarray, width: float, count: int,
    prior: LinearHead | None,
) -> _Problem:  # fmt: skip
    w, b = np.zeros((count, vectors.shape[1])), np.zeros(count)
    if prior is not None:
        w = prior.weight.astype(np.float64) * width
        b = prior.bias + prior.weight @ mean
    x = torch.from_numpy((vectors - mean) / width)
    return _Problem(x, torch.from_numpy(targets), torch.from_numpy(w), torch.from_numpy(b))


def _validate(problem: _Problem, decays: list[float], folds: int, seed: int) -> dict[float, float]:
    """Cross-entropy on held-out examples for each decay tried; empty when nothing can be held out.

    Each decay starts from the last one's solution.
    """
    problem = problem.float()  # why: to compare decays, half the time and a rough minimum will do
    fold = _folds(problem.y.numpy(), folds, seed)
    parts: list[tuple[_Problem, _Problem]] = []
    for one in range(folds):
        if sum(len(test.y) for _, test in parts) < _ENOUGH and (fold == one).any():
            parts.append((problem.rows(fold != one), problem.rows(fold == one)))
    if not parts:
        return {}
    starts = [(problem.w, problem.b)] * len(parts)
    scores: dict[float, float] = {}
    since = 0
    for decay in decays:
        starts = [_solve(train, decay, *at, rough=True) for (train, _), at in zip(parts, starts)]
        total = sum(
            F.cross_entropy(test.x @ w.T + b, test.y, reduction="sum").item()
            for (_, test), (w, b) in zip(parts, starts)
        )
        score = total / sum(len(test.y) for _, test in parts)
        since = 0 if score < min(scores.values(), default=np.inf) else since + 1
        scores[decay] = score
        if since == _PATIENCE:
            break
    return scores


def _folds(targets: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """(N,) number of the fold of each example, labels spread evenly; -1: never held out."""
    rng = np.random.default_rng(seed)
    fold = np.full(len(targets), -1)
    offset = 0
    for label in np.unique(targets):
        rows = rng.permutation(np.flatnonzero(targets == label))
        if len(rows) > 1:
            fold[rows] = (np.arange(len(rows)) + offset) % folds
            offset += len(rows)
    return fold


def _solve(
    problem: _Problem, decay: float, w: Tensor, b: Tensor, *, rough: bool = False
) -> tuple[Tensor, Tensor]:
    """The one minimum (the cost is strictly convex), by L-BFGS from (w, b)."""
    w, b = w.clone().requires_grad_(), b.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [w, b], max_iter=50 if rough else 500, tolerance_grad=1e-4 if rough else 1e-7,
        tolerance_change=1e-6 if rough else 1e-10, history_size=20, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def cost() -> Tensor:
        optimiser.zero_grad()
        away = (w - problem.w).square().sum() + (b - problem.b).square().sum()
        value = F.cross_entropy(problem.x @ w.T + b, problem.y) + decay / 2 * away
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(cost)
    return w.detach(), b.detach()
