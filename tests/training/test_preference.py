"""Preference tuning: what the loss is, who learns, that it learns, resumes, and reads its pairs."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from mmfm.errors import DataError, InputError
from mmfm.layers.adapter import Adapter
from mmfm.model import MMFM
from mmfm.presets import preset
from mmfm.training.loop import LoopConfig, train
from mmfm.training.preference import PreferenceData, PreferenceTask, dpo_loss, read_pairs
from mmfm.training.self_ranking import rank_pairs, standing, win_rate

COLOURS = ("red", "green", "blue", "black")


@pytest.fixture(scope="module", params=["pixel", "grid"])
def model(request):
    texts = [f"{colour} square" for colour in COLOURS]
    model = MMFM.from_config(preset("tiny", space=request.param), texts=texts, device="cpu")
    with torch.no_grad():
        for parameter in model.decoder.network.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape))
    return model


@pytest.fixture
def folder(tmp_path):
    """Squares of the right colour are chosen, white ones rejected."""
    lines = []
    for colour in COLOURS:
        for name, fill in ((f"{colour}.png", colour), (f"not-{colour}.png", "white")):
            Image.new("RGB", (32, 32), fill).save(tmp_path / name)
        lines.append({"prompt": f"{colour} square", "chosen": f"{colour}.png",
                      "rejected": f"not-{colour}.png"})  # fmt: skip
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.fixture
def task(model, folder):
    data = PreferenceData(model, read_pairs(folder))
    torch.manual_seed(0)
    adapter = Adapter(model.decoder.network, 4, skip=("conditioner.",))
    return PreferenceTask(model.decoder, adapter, data, data, beta=20.0)


class Every:
    def batch(self, step):
        return np.arange(len(COLOURS))


def config(num_steps, **settings):
    return LoopConfig(num_steps=num_steps, learning_rate=1e-2, warmup_steps=2, weight_decay=0,
                      ema_decay=0.5, evaluate_every=100, **settings)  # fmt: skip


def test_a_fresh_adapter_costs_log_2(task):
    loss, parts = task.loss(np.arange(4), torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert parts["preferred"].item() == 0  # nothing has moved


def test_the_loss_rewards_a_lower_error_on_the_chosen_picture():
    better, worse = dpo_loss(torch.tensor([-0.1]), 20.0), dpo_loss(torch.tensor([0.1]), 20.0)
    assert better.item() == pytest.approx(-math.log(1 / (1 + math.exp(-2))), abs=1e-6)
    assert better < math.log(2) < worse


def test_gradients_reach_the_adapter_alone(task):
    task.loss(np.arange(4), torch.Generator().manual_seed(0))[0].backward()
    assert all(p.grad is None for p in task.decoder.network.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in task.module.parameters())


def test_it_learns_what_is_preferred_and_leaves_the_reference(task, tmp_path):
    before = {k: v.clone() for k, v in task.decoder.network.state_dict().items()}
    trained = train(task, Every(), config(30), tmp_path / "run")
    with torch.inference_mode():
        figures, _ = task.evaluate(trained)
    assert figures["held_out"] == 4
    assert figures["held_out_loss"] < 0.6
    assert figures["held_out_preferred"] == 1.0
    assert all(torch.equal(v, before[k]) for k, v in task.decoder.network.state_dict().items())


def test_a_resumed_run_is_the_uninterrupted_one(task, tmp_path):
    start = {k: v.clone() for k, v in task.module.state_dict().items()}
    settings = config(6, save_every=6)
    whole = train(task, Every(), settings, tmp_path / "whole").state_dict()
    whole = {k: v.clone() for k, v in whole.items()}
    asked = []
    task.module.load_state_dict(start)
    train(task, Every(), settings, tmp_path / "cut", lambda: asked.append(0) or len(asked) > 3)
    task.module.load_state_dict(start)
    again = train(task, Every(), settings, tmp_path / "cut").state_dict()
    assert all(torch.equal(again[k], whole[k]) for k in whole)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "there is no"),
        ("", "holds no pair"),
        ("{}\n", "line 1 is no pair"),
        ("nonsense\n", "line 1 is no pair"),
        ('{"prompt": "a", "chosen": "red.png", "rejected": "gone.png"}\n', "gone.png"),
    ],
)
def test_pairs_that_cannot_be_used_are_told(tmp_path, text, told):
    Image.new("RGB", (8, 8)).save(tmp_path / "red.png")
    if text is not None:
        (tmp_path / "pairs.jsonl").write_text(text)
    with pytest.raises(DataError, match=told):
        read_pairs(tmp_path)


def test_a_model_ranks_itself_and_goes_on_after_a_kill(model, tmp_path):
    prompts = [f"{colour} square" for colour in COLOURS]
    settings = {"candidates": 3, "num_steps": 2}
    assert rank_pairs(model, prompts[:2], tmp_path, **settings) == 2
    first = (tmp_path / "000000-chosen.png").read_bytes()
    with open(tmp_path / "pairs.jsonl", "a") as file:
        file.write('{"prompt": "blue sq')  # what a kill leaves
    assert rank_pairs(model, prompts, tmp_path, **settings) == 2
    assert rank_pairs(model, prompts, tmp_path, **settings) == 0
    assert [pair.prompt for pair in read_pairs(tmp_path)] == prompts
    assert (tmp_path / "000000-chosen.png").read_bytes() == first
    with pytest.raises(InputError, match="at least 2"):
        rank_pairs(model, prompts, tmp_path, candidates=1)


def test_each_judgement_weighs_the_same_whatever_its_scale():
    scores = np.array([[[0.1, -300.0], [0.2, -100.0], [0.3, -110.0]]])
    assert standing(scores)[0].argmax() == 2
    assert np.allclose(standing(scores * np.array([1.0, 0.001])), standing(scores))
    assert win_rate(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 4.0])) == 0.5
