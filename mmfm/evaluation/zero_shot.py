"""Naming what a picture shows without having been trained to, and whether the chances are true."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mmfm.classify.calibration import expected_calibration_error
from mmfm.errors import DataError, InputError
from mmfm.evaluation.gathered import Gathered


def top_k_accuracy(scores: np.ndarray, targets: np.ndarray, k: int) -> float:
    """Share of rows of `scores` (N, L) whose target (N,) is among the k highest.

    A label with a score equal to the target's counts as above it. Raises InputError when shapes
    disagree or there are no rows.
    """
    return float((_above(scores, targets) < k).mean())


def mean_per_class_recall(scores: np.ndarray, targets: np.ndarray) -> float:
    """Top-1 accuracy of each label that occurs, averaged over those labels."""
    right = _above(scores, targets) < 1
    counts = np.bincount(targets)
    shares = np.bincount(targets, right)[counts > 0] / counts[counts > 0]
    return float(shares.mean())


def _above(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N,): how many labels stand before, or level with, the target."""
    if scores.ndim != 2 or targets.shape != scores.shape[:1] or not len(targets):
        raise InputError(
            f"got scores {scores.shape} and targets {targets.shape}, wanted (N, L) and (N,), N > 0"
        )
    own = scores[np.arange(len(targets)), targets][:, None]
    return (scores >= own).sum(axis=1) - 1


def naming_figures(chances: np.ndarray, labels: Sequence[str], targets: Sequence[str]) -> dict:
    """Of (N, L) probabilities: accuracies, their chance levels, and the calibration error.

    Targets that are not among the labels (a class without an example) count as wrong.
    chance: one over the number of labels; majority: share of the most common target.
    """
    names = [*labels, *sorted(set(targets) - set(labels))]
    places = {name: place for place, name in enumerate(names)}
    wanted = np.array([places[target] for target in targets])
    unknown = np.full((len(chances), len(names) - len(labels)), -1.0, chances.dtype)
    scores = np.concatenate([chances, unknown], axis=1)
    return {
        "num_images": len(targets),
        "num_labels": len(names),
        "top1": top_k_accuracy(scores, wanted, 1),
        "top5": top_k_accuracy(scores, wanted, 5),
        "mean_per_class_recall": mean_per_class_recall(scores, wanted),
        "calibration_error": expected_calibration_error(chances, wanted),
        "chance": 1 / len(names),
        "majority": Counter(targets).most_common(1)[0][1] / len(targets),
    }


def zero_shot(model: Any, found: Gathered, templates: Any = None) -> dict:
    """`naming_figures` of a head made of the labels that occur.

    Samples without a label are left out; with fewer than two labels the figures are None.
    """
    vectors, targets = found.labelled()
    labels = sorted(set(targets))
    if len(labels) < 2:
        empty = ("top1", "top5", "mean_per_class_recall", "calibration_error", "chance", "majority")
        counts = {"num_images": len(targets), "num_labels": len(labels)}
        return {**counts, **dict.fromkeys(empty)}
    chances = model.zero_shot_head(labels, templates)(vectors)
    return {**naming_figures(chances, labels, targets), **_told(templates)}


def calibration(
    model: Any, fit: tuple[np.ndarray, list[str]], test: tuple[np.ndarray, list[str]],
    templates: Any = None,
) -> dict:  # fmt: skip
    """The zero-shot head before and after `LinearHead.calibrated` on `fit`, measured on `test`."""
    labels = sorted({*fit[1], *test[1]})
    head = model.zero_shot_head(labels, templates)
    fitted = head.calibrated(*fit)
    figures: dict[str, Any] = {"num_fitted_on": len(fit[1]), **_told(templates)}
    wanted = np.array([labels.index(target) for target in test[1]])
    for name, one in (("before", head), ("after", fitted)):
        figures[name] = expected_calibration_error(one(test[0]), wanted)
    return {**figures, "temperature": fitted.notes["calibration"]["temperature"]}


def learned(
    fit: Callable[[np.ndarray, list[str]], Any],
    train: tuple[np.ndarray, list[str]], test: tuple[np.ndarray, list[str]],
) -> dict:  # fmt: skip
    """`naming_figures` on `test` of a classifier that `fit` makes of the vectors of `train`."""
    if len(set(train[1])) < 2 or not test[1]:
        raise DataError(
            f"a classifier needs examples of two labels and others to test on; got "
            f"{len(train[1])} and {len(test[1])} labelled samples: name the label's field, or give "
            "training data"
        )
    head = fit(*train)
    figures = naming_figures(head(test[0]), head.labels, test[1])
    return {"num_examples": len(train[1]), **figures, **getattr(head, "notes", {})}


def _told(templates: Any) -> dict:
    return {} if templates is None else {"templates": templates}
