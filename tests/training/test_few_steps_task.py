"""Distilling on twelve drawings: only the adapter learns, and it comes near the teacher."""

import numpy as np
import pytest
import torch

from mmfm.decoder.decoder import ImageDecoder
from mmfm.errors import ModelError
from mmfm.presets import tiny
from mmfm.training.few_steps import FewStepsTask
from mmfm.training.loop import LoopConfig, train
from tests.training.tiny_flow import tiny_flow


@pytest.fixture
def task(drawings):
    _, decoder, data = tiny_flow(drawings, "pixel", spread=0.03, few_steps=2, few_steps_rank=4)
    return FewStepsTask(decoder, data, data)


class Every:
    def batch(self, step):
        return np.arange(12)


def config(num_steps=30, **settings):
    return LoopConfig(num_steps=num_steps, learning_rate=1e-2, warmup_steps=3, weight_decay=0,
                      ema_decay=0.5, evaluate_every=100, **settings)  # fmt: skip


def test_the_student_comes_near_and_the_teacher_stays(task, tmp_path):
    before = {k: v.clone() for k, v in task.decoder.network.state_dict().items()}
    with torch.inference_mode():
        first, _ = task.evaluate(task.module)
    trained = train(task, Every(), config(), tmp_path)
    with torch.inference_mode():
        last, sheets = task.evaluate(trained)
    assert last["distance"] < 0.5 * first["distance"]
    assert last["distance_plain"] == first["distance_plain"]  # of the teacher alone
    assert all(torch.equal(v, before[k]) for k, v in task.decoder.network.state_dict().items())
    assert set(sheets) == {"few_steps", "flow"}


def test_a_resumed_run_is_the_uninterrupted_one(task, tmp_path):
    start = {k: v.clone() for k, v in task.module.state_dict().items()}
    settings = config(num_steps=6, save_every=6)
    whole = train(task, Every(), settings, tmp_path / "whole").state_dict()
    whole = {k: v.clone() for k, v in whole.items()}
    task.module.load_state_dict(start)
    asked = []
    train(task, Every(), settings, tmp_path / "cut", lambda: asked.append(0) or len(asked) > 3)
    task.module.load_state_dict(start)
    again = train(task, Every(), settings, tmp_path / "cut").state_dict()
    assert all(torch.equal(again[k], whole[k]) for k in whole)


def test_gradients_reach_the_adapter_alone(task):
    loss, parts = task.loss(np.arange(12), torch.Generator().manual_seed(0))
    loss.backward()
    assert all(p.grad is None for p in task.decoder.network.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in task.module.parameters())
    assert set(parts) == {"node_0", "node_1"}


def test_a_decoder_without_the_mode_is_refused(task):
    with pytest.raises(ModelError, match="few-step"):
        FewStepsTask(ImageDecoder(tiny().decoder), task.train, task.train)
