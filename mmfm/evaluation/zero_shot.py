"""Naming a picture's category without having been trained to: top-1 and top-5 accuracy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mmfm.data.sample import Sample
from mmfm.errors import InputError


def top_k_accuracy(scores: np.ndarray, targets: np.ndarray, k: int) -> float:
    """Share of rows of `scores` (N, L) whose target (N,) is among the k highest.

    A label with a score equal to the target's counts as above it. Raises InputError when shapes
    disagree or there are no rows.
    """
    if scores.ndim != 2 or targets.shape != scores.shape[:1] or not len(targets):
        raise InputError(
            f"got scores {scores.shape} and targets {targets.shape}, wanted (N, L) and (N,), N > 0"
        )
    rows = np.arange(len(targets))
    own = scores[rows, targets][:, None]
    above = (scores >= own).sum(axis=1) - 1
    return float((above < k).mean())


def zero_shot(model, samples: Sequence[Sample], key: str = "category") -> dict:
    """Accuracy of `model.classify` over the labels found in meta[key].

    chance: one over the number of labels; majority: share of the most common label. Samples
    without a label are left out; with fewer than two labels the figures are None.
    """
    labelled = [sample for sample in samples if sample.meta.get(key)]
    targets = [sample.meta[key] for sample in labelled]
    labels = sorted(set(targets))
    counts = {"num_images": len(labelled), "num_labels": len(labels)}
    if len(labels) < 2:
        return {**counts, "top1": None, "top5": None, "chance": None, "majority": None}
    scores = np.asarray(model.classify([sample.image for sample in labelled], labels))
    wanted = np.array([labels.index(target) for target in targets])
    return {
        **counts,
        "top1": top_k_accuracy(scores, wanted, 1),
        "top5": top_k_accuracy(scores, wanted, 5),
        "chance": 1 / len(labels),
        "majority": Counter(targets).most_common(1)[0][1] / len(targets),
    }
