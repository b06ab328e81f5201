"""What all tests share: no network, and one tiny real model."""

import os
import socket

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is imported; children too

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """Any connection that would leave this machine fails the test that opens it."""
    connect = socket.socket.connect

    def connect_here(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
            raise RuntimeError(f"a test reached for {address}; tests run without a network")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_here)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What is remembered between calls stays with the tests, also that of their child processes."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MMFM_CACHE", "XDG_CACHE_HOME"):
            patch.setenv(name, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory):
    """Folder of a real model of width 32 for pictures of 32 pixels, with random weights."""
    from mmfm.model import MMFM
    from mmfm.presets import preset

    path = tmp_path_factory.mktemp("bundles") / "tiny"
    config = preset("tiny", caption_vocab_size=514)  # the 512 bytes, start and end
    MMFM.from_config(config, seed=0, texts=["a red circle", "a tree"]).save_pretrained(path)
    return path


def _wake(model):
    """Move the decoder from its start, where it predicts zero whatever it is told."""
    import torch

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in model.decoder.network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model


@pytest.fixture(scope="session")
def tiny_model(tiny_bundle):
    """The tiny model in memory, in pixel space; its decoder heeds its prompt. Do not change it."""
    import mmfm

    return _wake(mmfm.load(tiny_bundle, device="cpu"))


@pytest.fixture(scope="session")
def tiny_grid_model():
    """The same in grid space."""
    from mmfm.model import MMFM
    from mmfm.presets import preset

    config = preset("tiny", space="grid")
    return _wake(MMFM.from_config(config, seed=1, texts=["a red circle"], device="cpu"))


@pytest.fixture(scope="session")
def ellipses():
    """Five pictures, 40 x 48, each an ellipse of one colour on white."""
    from PIL import Image, ImageDraw

    pictures = [Image.new("RGB", (40, 48), "white") for _ in range(5)]
    for image, colour in zip(pictures, ("red", "green", "blue", "orange", "black")):
        ImageDraw.Draw(image).ellipse((8, 8, 32, 40), fill=colour)
    return pictures
