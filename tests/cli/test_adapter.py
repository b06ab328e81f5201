"""--adapter: every verb computes with it, also those that can do without the whole model."""

import numpy as np
import pytest
from PIL import Image

import mmfm
from mmfm import lora


@pytest.fixture
def adapter(tiny_bundle, tmp_path):
    """Of the towers and the decoder, strong enough to be seen."""
    import torch

    model = mmfm.load(tiny_bundle, device="cpu")
    for number, part in enumerate((model.backbone, model.decoder)):
        lora.add(part, rank=2)
        torch.manual_seed(number)
        with torch.no_grad():
            for parameter in part.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.save_adapter(tmp_path / "adapter")


def test_vectors_are_those_of_the_adapter(tiny, tiny_bundle, adapter, pictures, tmp_path):
    tiny("embed", pictures, "-o", tmp_path / "plain.npz")
    tiny("embed", pictures, "-o", tmp_path / "with.npz", "--adapter", adapter)
    model = mmfm.load(tiny_bundle, adapter=adapter, device="cpu")
    for name, wanted in (("plain", None), ("with", "default")):
        model.set_adapter(wanted)
        found = np.load(tmp_path / f"{name}.npz")
        vectors = next(found[key] for key in found.files if found[key].ndim == 2)
        assert np.sum(vectors * model.embed_images(pictures), axis=1).min() > 0.999


def test_search_by_words_reads_them_with_the_adapter(tiny, adapter, pictures, tmp_path):
    """Words are otherwise read without loading the model, from the base's files."""
    assert tiny("index", pictures, "-o", tmp_path / "i", "--adapter", adapter).code == 0
    assert tiny("search", tmp_path / "i", "red", "--adapter", adapter).code == 0
    refused = tiny("search", tmp_path / "i", "red").refused()
    assert "index was made with" in refused


def test_drawing_has_the_adapter(tiny, adapter, tmp_path):
    """A prompt alone is otherwise drawn without loading the model."""
    how = ("generate", "a red circle", "--seed", 1, "--steps", 2)
    for name, more in (("a", ()), ("b", ("--adapter", adapter)), ("c", ("--adapter", adapter))):
        assert tiny(*how, "-o", tmp_path / f"{name}.png", *more).code == 0
    a, b, c = (Image.open(tmp_path / f"{name}.png").tobytes() for name in "abc")
    assert b == c != a


def test_what_is_no_adapter_is_refused(tiny, pictures, tmp_path):
    told = tiny("embed", pictures, "-o", tmp_path / "x.npz", "--adapter", pictures).refused()
    assert "mmfm_adapter.json is missing" in told
