"""An open_clip model without heads: frozen towers, fresh heads, its own loss kept."""

import copy

import pytest
import torch

import mmfm
from mmfm.config import ModelConfig
from mmfm.encoders.backbone import Backbone
from mmfm.model import MMFM
from mmfm.presets import preset
from tests.finetuning.conftest import QUICK


def bare(loss, **vision):
    """A small random open_clip model that prepares pictures as OpenAI's do."""
    config = preset("tiny").backbone
    model_cfg = copy.deepcopy(config.model_cfg)
    model_cfg["vision_cfg"] |= vision
    if loss == "sigmoid":
        model_cfg |= {"init_logit_bias": -10.0, "init_logit_scale": 2.3}
    preprocess = {**config.preprocess_cfg, "mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}
    config = type(config)(model_cfg=model_cfg, preprocess_cfg=preprocess, loss=loss)
    torch.manual_seed(0)
    return MMFM(
        ModelConfig(name="bare", backbone=config), Backbone.from_config(config), device="cpu"
    )


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_frozen_towers_get_heads(loss, folder, tmp_path):
    model = bare(loss)
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    report = mmfm.finetune(model, images=folder, output=tmp_path / "new", **QUICK)
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())
    assert (model.captioner, model.decoder) == (None, None)  # the model given is as it was
    tuned = mmfm.load(tmp_path / "new", device="cpu")
    assert tuned.config.backbone.loss == loss
    assert tuned.config.decoder.space == "grid"
    picture = tuned.generate("a red ellipse", seed=0)[0]
    assert picture.size == (32, 32) and len(tuned.caption(picture)) == 1
    changed = {
        name for name, value in tuned.backbone.state_dict().items()
        if not torch.allclose(value, before[name].half().float(), atol=1e-4)
    }  # fmt: skip
    assert changed <= {"towers.visual.proj", "towers.text_projection"}
    assert "captions" not in report.figures["held_out"]["before"]
    assert "captions" in report.figures["held_out"]["after"]


def test_blocks_of_a_sigmoid_model_learn(folder, tmp_path):
    model = bare("sigmoid")
    mmfm.finetune(model, images=folder, output=tmp_path / "new", heads=("contrastive",),
                  train="blocks:1", **QUICK)  # fmt: skip
    tuned = mmfm.load(tmp_path / "new", device="cpu")
    assert tuned.config.backbone.loss == "sigmoid" and tuned.backbone.logit_bias is not None
    assert (tuned.captioner, tuned.decoder) == (None, None)
    assert tuned.backbone_hash != model.backbone_hash
