"""Naming what a vector shows: from words alone, or from a few examples. Works on stored vectors."""

from mmfm.classify.calibration import Calibration, expected_calibration_error
from mmfm.classify.head import LinearHead
from mmfm.classify.knn import KNN
from mmfm.classify.label_tuning import tune_labels
from mmfm.classify.linear_probe import fit_linear_probe
from mmfm.classify.prompts import choose_templates
from mmfm.classify.templates import TEMPLATES, read_templates
from mmfm.classify.ways import adapt
from mmfm.classify.zero_shot import zero_shot_head

__all__ = [
    "KNN", "TEMPLATES", "Calibration", "LinearHead", "adapt", "choose_templates",
    "expected_calibration_error", "fit_linear_probe", "read_templates", "tune_labels",
    "zero_shot_head",
]  # fmt: skip
