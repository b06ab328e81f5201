"""A model whose decoder works in the space of a diffusers autoencoder: drawn, saved, loaded."""

import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoModel

import mmfm
from mmfm.errors import ModelError
from mmfm.model import MMFM
from tests.conftest import _wake
from tests.decoder.tiny_autoencoders import build, model_config


@pytest.fixture(scope="module", params=["kl", "rae"])
def model(request):
    autoencoder = build(request.param)
    config = model_config(autoencoder)
    made = MMFM.from_config(
        config, seed=0, texts=["a red circle"], autoencoder=autoencoder, device="cpu"
    )
    made.decoder.space.fit(torch.rand(8, 3, 32, 32, generator=torch.manual_seed(0)) * 2 - 1)
    return _wake(made)


def drawn(model):
    settings = {"seed": 5, "num_steps": 2, "guidance_scale": 2.0, "output": "np"}
    return model.generate(["a red circle", "tree"], **settings)


def test_save_and_load_give_equal_pictures(model, tmp_path):
    path = model.save_pretrained(tmp_path / "saved")
    again = mmfm.load(path, device="cpu")
    assert again.config == model.config
    assert np.array_equal(drawn(again), drawn(model))
    assert again.info()["space"] == "vae"
    assert again.info()["parameters"]["autoencoder"] == model.info()["parameters"]["autoencoder"]
    third = mmfm.load(again.save_pretrained(path), device="cpu")  # over itself
    assert np.array_equal(drawn(third), drawn(model))


def test_the_autoencoder_lies_beside_the_weights_in_its_own_format(model, tmp_path):
    from safetensors.torch import load_file

    path = model.save_pretrained(tmp_path / "saved")
    assert type(AutoModel.from_pretrained(str(path / "vae"))) is type(model.autoencoder)
    heads = load_file(path / "heads.safetensors")
    mine = {name for name in heads if name.startswith("decoder.space.")}
    assert mine == {"decoder.space.mean", "decoder.space.scale"}
    assert not any("autoencoder" in name for name in heads)


def test_a_bundle_without_its_autoencoder_is_refused(model, tmp_path):
    path = model.save_pretrained(tmp_path / "saved")
    shutil.rmtree(path / "vae")
    with pytest.raises(ModelError) as caught:
        mmfm.load(path, device="cpu")
    assert "vae" in str(caught.value) and "\n" not in str(caught.value)
