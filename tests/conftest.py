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


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory):
    """Folder of a real model of width 32 for pictures of 32 pixels, with random weights."""
    from mmfm.model import MMFM
    from mmfm.presets import preset

    path = tmp_path_factory.mktemp("bundles") / "tiny"
    config = preset("tiny", caption_vocab_size=514)  # the 512 bytes, start and end
    MMFM.from_config(config, seed=0, texts=["a red circle", "a tree"]).save_pretrained(path)
    return path
