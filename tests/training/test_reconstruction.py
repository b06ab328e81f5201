"""The pixel decoder alone, on cached grids: it learns twelve drawings by heart."""

import numpy as np
import pytest
import torch

from mmfm.decoder.pixels import PixelDecoder
from mmfm.encoders.backbone import Backbone
from mmfm.errors import ModelError
from mmfm.presets import preset
from mmfm.training.reconstruction import (
    ReconstructionData,
    ReconstructionTask,
    psnr,
    reconstruction_loss,
)
from mmfm.training.seen import SeenInMemory


@pytest.fixture
def task(drawings):
    config = preset("tiny")
    torch.manual_seed(0)
    backbone = Backbone.from_config(config.backbone).eval()
    data = ReconstructionData(SeenInMemory.of_pictures(backbone, drawings), drawings)
    return ReconstructionTask(PixelDecoder(config.pixel_decoder), data, data)


def test_it_learns_its_drawings_by_heart_through_the_loop(task, learn_by_heart):
    before, after, sheets = learn_by_heart(task)
    assert after["held_out_psnr"] > before["held_out_psnr"] + 6
    assert sheets["reconstruction"].size == (12 * 32, 2 * 32)
    flat = task.train.pictures.on_ground(np.arange(12)).mean(axis=(2, 3), keepdims=True)
    images = torch.from_numpy(task.train.pictures.on_ground(np.arange(12)))
    assert after["held_out_psnr"] > psnr(torch.from_numpy(flat), images).mean() + 3


def test_held_out_figures_do_not_depend_on_how_they_are_cut(task, monkeypatch):
    with torch.inference_mode():
        whole, _ = task.evaluate(task.module.eval())
        monkeypatch.setattr("mmfm.training.reconstruction._CHUNK", 5)
        parts, _ = task.evaluate(task.module)
    assert parts == pytest.approx(whole, abs=2e-3)


def test_psnr_is_that_of_bytes():
    """An error of one grey level of 255 everywhere is 48.13 dB; equal pictures reach the cap."""
    images = torch.zeros(2, 3, 8, 8)
    assert psnr(images + 2 / 255, images) == pytest.approx([48.1308] * 2, abs=1e-3)
    assert psnr(images, images) == pytest.approx([86.02] * 2, abs=1e-2)
    assert reconstruction_loss(images, images) == 0
    assert reconstruction_loss(images + 0.5, images).item() == pytest.approx(0.25 + 0.1)


def test_no_gradient_reaches_what_was_cached(task):
    task.loss(np.arange(4), torch.Generator())[0].backward()
    assert not task.train.seen.tokens.requires_grad
    assert all(p.grad is not None for p in task.module.parameters())


def test_grids_are_needed(task):
    task.train = ReconstructionData(SeenInMemory(task.train.seen.pooled), task.train.pictures)
    with pytest.raises(ModelError, match="gives no tokens"):
        task.loss(np.arange(4), torch.Generator())
