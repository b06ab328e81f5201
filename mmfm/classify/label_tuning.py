"""Label tuning: a few steps on the labels' vectors, towers frozen (Mueller et al., 2203.14655).

Words say where a label lies; examples move it from there. No step is the zero-shot head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from mmfm.classify.head import LinearHead, expect_vectors, numbers
from mmfm.errors import InputError

LEARNING_RATE = 0.01  # of Adam, on vectors of unit length


def tune_labels(
    vectors: np.ndarray, targets: Sequence[str], prior: LinearHead, *, steps: int,
    learning_rate: float = LEARNING_RATE,
) -> LinearHead:  # fmt: skip
    """The prior with its rows turned towards the examples; their lengths and biases stay.

    vectors: (N, D) unit, of pictures; targets: their N labels. Each step is Adam's on the mean
    cross-entropy over all of them. Raises InputError on shapes that do not fit, labels that the
    prior lacks, or steps below 0.
    """
    return tuned_at(vectors, targets, prior, [steps], learning_rate=learning_rate)[0]


def tuned_at(
    vectors: np.ndarray, targets: Sequence[str], prior: LinearHead, marks: Sequence[int], *,
    learning_rate: float = LEARNING_RATE,
) -> list[LinearHead]:  # fmt: skip
    """`tune_labels` after each of several numbers of steps, ascending, in one run."""
    vectors = expect_vectors(vectors, prior.weight.shape[1])
    if len(vectors) != len(targets) or not len(targets):
        raise InputError(f"got {len(vectors)} vectors and {len(targets)} labels, wanted as many")
    if not marks or min(marks) < 0 or not learning_rate > 0:
        raise InputError(f"got steps {list(marks)} and learning rate {learning_rate}, wanted 0 or "
                         "more, and a positive number")  # fmt: skip
    x, y = torch.from_numpy(vectors).double(), torch.from_numpy(numbers(targets, prior.labels))
    weight, bias = torch.from_numpy(prior.weight).double(), torch.from_numpy(prior.bias).double()
    length = weight.norm(dim=1, keepdim=True)
    rows = F.normalize(weight, dim=1).requires_grad_()
    adam = torch.optim.Adam([rows], lr=learning_rate)
    found, done = [], 0
    for mark in sorted(marks):
        for _ in range(mark - done):
            adam.zero_grad()
            with torch.enable_grad():
                F.cross_entropy(x @ (length * F.normalize(rows, dim=1)).T + bias, y).backward()
            adam.step()
        done = mark
        made = prior.weight  # why: no step is the prior bit for bit
        if mark:
            made = (length * F.normalize(rows.detach(), dim=1)).float().numpy()
        notes = {"kind": "label tuning", "steps": mark, "count": len(targets), "prior": prior.notes}
        found.append(replace(prior, weight=made, loss="softmax", notes=notes))
    return found
