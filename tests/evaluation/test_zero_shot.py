"""Figures of naming: worked by hand, and equal to counting."""

import numpy as np
import pytest

from mmfm.evaluation.zero_shot import mean_per_class_recall, naming_figures


def test_classes_count_alike_whatever_their_size():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    targets = np.array([0, 0, 0, 1])
    assert mean_per_class_recall(scores, targets) == pytest.approx(0.5)
    # a label that no row has is not counted
    wide = np.concatenate([scores, np.zeros((4, 3))], axis=1)
    assert mean_per_class_recall(wide, targets) == pytest.approx(0.5)


def test_a_target_without_a_column_is_wrong():
    chances = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    figures = naming_figures(chances, ["cat", "dog"], ["cat", "dog", "emu"])
    assert figures["num_labels"] == 3
    assert figures["top1"] == pytest.approx(2 / 3)
    assert figures["top5"] == 1  # of three labels, all are among the first five
    assert figures["mean_per_class_recall"] == pytest.approx(2 / 3)
    assert figures["chance"] == figures["majority"] == pytest.approx(1 / 3)


def test_permuting_labels_changes_no_figure():
    rng = np.random.default_rng(0)
    chances = rng.dirichlet(np.ones(5), size=50)
    labels = list("abcde")
    targets = list(rng.choice(labels, 50))
    order = rng.permutation(5)
    moved = naming_figures(chances[:, order], [labels[i] for i in order], targets)
    assert moved == pytest.approx(naming_figures(chances, labels, targets))
