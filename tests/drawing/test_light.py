"""A bundle opened for drawing alone draws what the model draws."""

import numpy as np
import pytest

import mmfm
from mmfm.drawing.light import LightDrawing
from mmfm.errors import ModelError


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model):
    return tiny_model.save_pretrained(tmp_path_factory.mktemp("light") / "tiny")


@pytest.fixture(scope="module")
def light(folder):
    return LightDrawing(folder, lambda: mmfm.load(folder, device="cpu"))


def test_words_alone_give_the_models_pictures(light, tiny_model):
    prompts = ["a tree", "a red circle, quite a long text of many words"]
    asked = {"seed": 3, "num_steps": 2, "output": "np", "negative_prompt": "snow"}
    ours = light.generate(prompts, num_images=2, **asked)
    assert np.abs(ours.astype(int) - tiny_model.generate(prompts, num_images=2, **asked)).max() <= 1
    assert light.backbone_hash == tiny_model.backbone_hash


def test_pictures_are_read_by_the_model_itself(light, tiny_model, ellipses):
    asked = {"seed": 3, "num_steps": 2, "output": "np", "precision": "fp32"}
    ours = light.vary(ellipses[0], **asked)
    assert np.abs(ours.astype(int) - tiny_model.vary(ellipses[0], **asked)).max() <= 1


def test_a_bundle_without_a_decoder_is_refused(tmp_path):
    from dataclasses import replace

    from mmfm.model import MMFM
    from mmfm.presets import preset

    config = replace(preset("tiny"), decoder=None, captioner=None)
    folder = MMFM.from_config(config).save_pretrained(tmp_path / "bare")
    with pytest.raises(ModelError, match="no decoder"):
        LightDrawing(folder, lambda: None)
