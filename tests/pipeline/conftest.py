"""A model in every space, and its pipeline, quiet."""

import pytest

from mmfm.model import MMFM
from tests.conftest import _wake
from tests.decoder.tiny_autoencoders import build, model_config


@pytest.fixture(scope="session")
def tiny_vae_model():
    """The tiny model in the latents of a KL autoencoder."""
    autoencoder = build("kl")
    config = model_config(autoencoder)
    return _wake(MMFM.from_config(config, seed=2, autoencoder=autoencoder, device="cpu"))


@pytest.fixture(params=["pixel", "grid", "vae"])
def model(request, tiny_model, tiny_grid_model, tiny_vae_model):
    return {"pixel": tiny_model, "grid": tiny_grid_model, "vae": tiny_vae_model}[request.param]


@pytest.fixture
def pipe(model):
    """Its parts are the model's: a test that moves or changes them makes its own."""
    made = model.to_diffusers()
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def one_pipe(tiny_model):
    """A pipeline in pixel space, where one space says as much as three."""
    made = tiny_model.to_diffusers()
    made.set_progress_bar_config(disable=True)
    return made
