"""A tiny real model, fresh for each test, and adapters that change something."""

import pytest
import torch

import mmfm
from mmfm import lora

PARTS = ("backbone", "captioner", "decoder")


def stir(part, seed=0):
    """Move an adapter from its start, where it changes nothing."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parameter in part.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))


@pytest.fixture(autouse=True)
def same_start():
    """Adapters begin at random: at the same place in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def model(tiny_bundle):
    """With a decoder that heeds its prompt; to be changed as a test likes."""
    made = mmfm.load(tiny_bundle, device="cpu")
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in made.decoder.network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return made


@pytest.fixture
def says(ellipses):
    """Everything that a model computes, by the ways that a user has: vectors, scores, pictures."""

    def everything(model):
        drawn = model.generate("a red circle", num_images=2, seed=3, num_steps=3, precision="fp32")
        return {
            "images": model.embed_images(ellipses, precision="fp32"),
            "texts": model.embed_texts(["a red circle", "a tree"], precision="fp32"),
            "captions": model.caption_score(ellipses[:2], ["a red circle", "a tree"]),
            "pictures": [picture.tobytes() for picture in drawn],
            "few words": model.caption(ellipses[:2], max_tokens=6),
        }

    return everything


@pytest.fixture
def two_adapters(model, tmp_path):
    """Folders of an adapter of all parts, and of one of the towers alone."""
    folders = []
    for seed, names in enumerate((PARTS, PARTS[:1])):
        for name in names:
            lora.add(getattr(model, name), rank=2)
            stir(getattr(model, name), seed)
        folders.append(lora.save_set(model, tmp_path / f"adapter{seed}"))
        for name in names:
            lora.discard(getattr(model, name))
    return folders
