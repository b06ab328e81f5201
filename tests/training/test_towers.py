"""Stage one on twelve drawings: the joint loss falls and held-out figures are numbers."""

import numpy as np
import pytest
import torch

from mmfm.captioner.network import Captioner
from mmfm.captioner.vocabulary import Vocabulary
from mmfm.config import BackboneConfig
from mmfm.decoder.pixels import PixelDecoder
from mmfm.encoders.backbone import Backbone
from mmfm.presets import preset
from mmfm.training.towers import Towers, TowersTask

FIGURES = {
    "held_out", "held_out_recall@1", "held_out_recall@10", "held_out_caption_loss",
    "held_out_psnr",
}  # fmt: skip


def build(drawings, loss="softmax"):
    base = preset("tiny").backbone
    cfg = {**base.model_cfg, **({"init_logit_bias": -5.0} if loss == "sigmoid" else {})}
    torch.manual_seed(0)
    backbone = Backbone.from_config(
        BackboneConfig(model_cfg=cfg, preprocess_cfg=base.preprocess_cfg, loss=loss)
    )
    texts = ["a drawing of", "style:", "flat", "keywords:", *(c[0] for c in drawings.captions)]
    vocabulary = Vocabulary.build(texts, backbone.tokenizer)
    config = preset("tiny", caption_vocab_size=len(vocabulary))
    parts = Captioner(config.captioner), PixelDecoder(config.pixel_decoder)
    return TowersTask(Towers(backbone, *parts), vocabulary, drawings, drawings)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_the_loss_falls_and_the_figures_rise(drawings, loss):
    task = build(drawings, loss)
    module, rows = task.module, np.arange(12)
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    with torch.inference_mode():
        before, _ = task.evaluate(module)
    first = None
    for step in range(25):
        total, parts = task.loss(rows, torch.Generator().manual_seed(step))
        first = first or parts
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    for name in ("contrastive", "caption", "reconstruction"):
        assert parts[name] < 0.8 * first[name], name
    with torch.inference_mode():
        after, sheets = task.evaluate(module)
    assert set(before) == set(after) == FIGURES
    assert after["held_out_caption_loss"] < before["held_out_caption_loss"]
    assert after["held_out_psnr"] > before["held_out_psnr"]
    assert after["held_out_recall@10"] >= after["held_out_recall@1"] > 1 / 12
    [sheet] = sheets.values()
    assert sheet.size == (12 * 32, 2 * 32)


def test_the_loss_repeats_with_its_generator(drawings):
    task = build(drawings)
    first, again, other = (
        task.loss(np.arange(8), torch.Generator().manual_seed(seed))[0].item() for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_every_part_learns(drawings):
    task = build(drawings)
    total, _ = task.loss(np.arange(12), torch.Generator().manual_seed(0))
    total.backward()
    for name, part in task.module.named_children():
        learned = [p.grad is not None and bool(p.grad.any()) for p in part.parameters()]
        assert sum(learned) > 0.9 * len(learned), name


def test_fewer_than_ten_held_out_drawings_are_measured_too(drawings):
    task = build(drawings)
    task.held_out = drawings.select(np.arange(3))
    with torch.inference_mode():
        numbers, _ = task.evaluate(task.module)
    assert numbers["held_out"] == 3
    assert numbers["held_out_recall@10"] == 1.0
