"""What the towers learn by."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmfm.finetuning import prepare_finetune
from mmfm.finetuning.stages import Tuning, copy_of
from tests.finetuning.conftest import QUICK


@pytest.fixture
def task(tiny_bundle, folder, known, tmp_path):
    prepared = prepare_finetune(
        str(tiny_bundle), images=folder, original=known, output=tmp_path / "new", train="all",
        heads=("contrastive",), **QUICK,
    )  # fmt: skip
    tuning = Tuning(copy_of(prepared.base), prepared.material, prepared.choices,
                    prepared.settings, tmp_path / "run")  # fmt: skip
    return tuning.adaptation()[0]


def test_words_known_before_are_wrong_captions_but_for_its_own(task):
    rows = np.flatnonzero(~task.before.is_original)[:4]
    vectors = F.normalize(torch.randn(4, task.before.texts.shape[1]), dim=1)
    right = task._others(rows, vectors, vectors)
    own = [word in task.train.captions[rows[0]] for word in task.before.words]
    assert sum(own) == 1
    task.before.texts[own.index(True)] = vectors[0]
    same = task._others(rows[:1], vectors[:1], vectors[:1])
    task.before.texts[own.index(False)] = vectors[0]
    worse = task._others(rows[:1], vectors[:1], vectors[:1])
    assert same < 1e-2 and worse > 0.6  # as near as its own caption: ln 2
    assert right < task._others(rows, vectors, -vectors)
