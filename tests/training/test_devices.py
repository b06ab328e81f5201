"""Every stage of `train.mini` with its weights on a GPU and its data on the CPU: no tensor of one
meets a tensor of the other, and the loss is the CPU's."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmfm.captioner.network import Captioner
from mmfm.captioner.vocabulary import Vocabulary
from mmfm.decoder.decoder import ImageDecoder
from mmfm.decoder.pixels import PixelDecoder
from mmfm.encoders.backbone import Backbone
from mmfm.presets import preset
from mmfm.training.caption import CaptionData, CaptionTask
from mmfm.training.few_steps import FewStepsTask
from mmfm.training.flow import FlowData, FlowTask
from mmfm.training.matching import MatchingTask
from mmfm.training.reconstruction import ReconstructionData, ReconstructionTask
from mmfm.training.seen import SeenInMemory
from mmfm.training.towers import Towers, TowersTask
from tests.training.pretend import GPU, Pretending, moved

ROWS = np.arange(12)


def keep(part):
    return part


def towers(drawings, place):
    config = preset("tiny", caption_vocab_size=514)
    torch.manual_seed(0)
    backbone = Backbone.from_config(config.backbone)
    vocabulary = Vocabulary.build([], backbone.tokenizer)
    captioner = Captioner(replace(config.captioner, vocab_size=len(vocabulary)))
    module = Towers(backbone, captioner, PixelDecoder(config.pixel_decoder))
    return TowersTask(place(module), vocabulary, drawings, drawings)


def captions(drawings, place):
    whole = towers(drawings, place)
    seen = SeenInMemory.of_pictures(whole.module.backbone, drawings)
    data = CaptionData(seen, drawings.captions, drawings.meta)
    return CaptionTask(whole.module.captioner, whole.vocabulary, data, data)


def pixels(drawings, place):
    whole = towers(drawings, place).module
    data = ReconstructionData(SeenInMemory.of_pictures(whole.backbone, drawings), drawings)
    return ReconstructionTask(whole.pixel_decoder, data, data)


def flow(drawings, place, space="grid", **settings):
    config = preset("tiny", space=space)
    torch.manual_seed(0)
    backbone = place(Backbone.from_config(config.backbone).eval())
    pixel_decoder = place(PixelDecoder(config.pixel_decoder))
    decoder = place(ImageDecoder(replace(config.decoder, **settings), pixel_decoder))
    data = FlowData(backbone, decoder, drawings)
    data.fit_space()
    return FlowTask(decoder, data, data)


def few_steps(drawings, place):
    task = flow(drawings, place, few_steps=2, few_steps_rank=4)
    return FewStepsTask(task.module, task.train, task.held_out)


def matching(drawings, place):
    task = flow(drawings, place, few_steps=2, few_steps_rank=4)
    return MatchingTask(task.module, task.train, task.held_out)


def pixel_flow(drawings, place):
    return flow(drawings, place, space="pixel")


@pytest.mark.parametrize("build", [towers, captions, pixels, flow, pixel_flow, few_steps, matching])
def test_a_stage_computes_where_its_weights_are(build, drawings):
    with torch.no_grad():
        wanted, _ = build(drawings, keep).loss(ROWS, torch.Generator().manual_seed(1))
        with Pretending():
            task = build(drawings, moved)
            loss, _ = task.loss(ROWS, torch.Generator().manual_seed(1))
            assert loss.device == GPU
            assert loss.item() == pytest.approx(wanted.item(), rel=1e-3)
            if build is not captions:  # it writes in inference mode, which no wrapper can stand
                assert task.evaluate(task.module)[0]["held_out"] == 12


def test_the_pretence_tells_what_a_gpu_would():
    with Pretending(), pytest.raises(RuntimeError, match="of the CPU and of the GPU"):
        torch.ones(2, device=GPU) + torch.ones(2)
