"""The contrastive task: equal to the formula, part by part equal to whole, honest figures."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmfm.config import BackboneConfig
from mmfm.data.batch import Batch
from mmfm.encoders.backbone import Backbone
from mmfm.errors import DataError
from mmfm.evaluation.retrieval import recall_at_k
from mmfm.training.accumulate import backward
from mmfm.training.contrastive import ContrastiveTask, caption_ids, recall
from mmfm.training.task import PairTask

WORDS = ("red", "green", "blue", "tall", "small", "round")


def backbone(loss="softmax", patch_dropout=0.0):
    cfg = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2,
                       "head_width": 16, "patch_dropout": patch_dropout},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2,
                     "layers": 1},
    }  # fmt: skip
    if loss == "sigmoid":
        cfg |= {"init_logit_scale": math.log(10), "init_logit_bias": -10.0}
    pixels = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "size": [32, 32]}
    torch.manual_seed(0)
    config = BackboneConfig(model_cfg=json.loads(json.dumps(cfg)), preprocess_cfg=pixels, loss=loss)
    return Backbone.from_config(config)


def batch(count, start=0, captions=2):
    random = np.random.default_rng(7)
    images = random.integers(0, 256, (40, 32, 32, 3), np.uint8)[start : start + count]
    texts = [
        tuple(f"{WORDS[(i + j) % 6]} {WORDS[i * 7 % 5]} thing" for j in range(captions))
        for i in range(start, start + count)
    ]
    rows = np.arange(start, start + count)
    return Batch(images, texts, rows, [f"k{i}" for i in rows])


class Held:
    """Twelve pairs in three batches."""

    num_batches = 3

    def batch(self, step):
        return batch(4, 4 * step)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_pixels_reach_the_tower_as_preprocess_cfg_says():
    module = backbone()
    images = batch(3).images
    ours = module.normalise(torch.from_numpy(images))
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.3, 0.4])
    theirs = ((images / 255 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-6)
    pooled, _ = module(torch.from_numpy(images), module.tokenize(["a", "b", "c"]))
    torch.testing.assert_close(pooled, module.encode_images(ours).pooled)


def test_a_known_text_length_changes_nothing():
    module = backbone()
    ids = module.tokenize(["a red thing", "one", "a much longer line of words"])
    length = module.text_length(ids)
    assert length < ids.shape[1]
    for exact in (module.encode_texts(ids).pooled, module.encode_texts(ids, 12).pooled):
        torch.testing.assert_close(module.encode_texts(ids, length).pooled, exact)


def test_softmax_loss_is_the_formula():
    module, one = backbone(), batch(8)
    task = ContrastiveTask(module)
    assert isinstance(task, PairTask)
    loss, _ = task.loss(one, generator())
    ids = module.tokenize([captions[0] for captions in one.captions])
    images, texts = module(torch.from_numpy(one.images), ids)
    logits = module.logit_scale * images @ texts.T
    target = torch.arange(8)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(loss, expected)


def test_sigmoid_loss_is_the_formula_and_starts_as_siglip_does():
    module, one = backbone("sigmoid"), batch(8)
    assert (module.logit_scale.item(), module.logit_bias.item()) == (pytest.approx(10), -10)
    loss, _ = ContrastiveTask(module).loss(one, generator())
    ids = module.tokenize([captions[0] for captions in one.captions])
    images, texts = module(torch.from_numpy(one.images), ids)
    logits = module.logit_scale * images @ texts.T + module.logit_bias
    expected = -F.logsigmoid((2 * torch.eye(8) - 1) * logits).sum() / 8
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("same_caption", [False, True])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(loss, same_caption):
    found = []
    for parts in (1, 4):
        module = backbone(loss).train()
        task = ContrastiveTask(module, same_caption=same_caption)
        value, _ = backward(task, batch(16), parts, generator)
        found.append((value, {n: p.grad for n, p in module.named_parameters()}))
    (whole, gradients), (split, others) = found
    torch.testing.assert_close(whole, split)
    assert None not in gradients.values()
    torch.testing.assert_close(gradients, others, rtol=1e-4, atol=1e-6)


def test_patch_dropout_draws_from_the_step_alone():
    module = backbone(patch_dropout=0.5).train()
    task = ContrastiveTask(module)

    def loss(seed):
        torch.manual_seed(seed)
        return task.loss(batch(8), generator())[0].item()

    assert loss(1) == loss(1) != loss(2)
    module.eval()
    assert loss(1) == loss(2)


def test_captions_are_the_first_or_drawn():
    one = batch(12, captions=3)
    first = ContrastiveTask(backbone())
    drawn = ContrastiveTask(first.module, captions="random")
    assert first._texts(one, generator()) == [captions[0] for captions in one.captions]
    texts = [drawn._texts(one, generator(seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    places = {c.index(t) for seed in range(9)
              for c, t in zip(one.captions, drawn._texts(one, generator(seed)))}  # fmt: skip
    assert places == {0, 1, 2}


def test_equal_captions_are_equal_in_every_process_and_no_negatives():
    ids = caption_ids(["a cat", "a dog", "a cat"])
    assert ids[0] == ids[2] != ids[1]
    assert caption_ids(["a cat"])[0] == ids[0] >= 0
    one = batch(6)
    one = Batch(one.images, [("a cat",)] * 6, one.rows, one.keys)
    alone, _ = ContrastiveTask(backbone(), same_caption=True).loss(one, generator())
    assert alone.item() == pytest.approx(0, abs=1e-6)  # nobody is left to be told from
    apart, _ = ContrastiveTask(backbone()).loss(one, generator())
    assert apart.item() == pytest.approx(math.log(6), abs=0.1)


def test_the_scale_comes_back_from_its_limit():
    module = backbone()
    with torch.no_grad():
        module.towers.logit_scale.fill_(7.0)
    loss, _ = ContrastiveTask(module).loss(batch(8), generator())
    loss.backward()
    assert module.towers.logit_scale.exp().item() == pytest.approx(100, rel=1e-5)
    assert module.towers.logit_scale.grad.item() > 0  # random features: a lower scale is better


def test_a_sample_without_captions_is_named():
    one = batch(3)
    one = Batch(one.images, [("a",), (), ("b",)], one.rows, one.keys)
    with pytest.raises(DataError, match="'k1' has no caption"):
        ContrastiveTask(backbone()).loss(one, generator())


def test_recall_is_that_of_the_evaluation(monkeypatch):
    monkeypatch.setattr("mmfm.training.contrastive._CHUNK", 7)  # several chunks
    random = generator(3)
    texts = F.normalize(torch.randn(40, 8, generator=random), dim=1)
    images = F.normalize(texts + 0.5 * torch.randn(40, 8, generator=random), dim=1)
    names = [f"name {i % 31}" for i in range(40)]
    ours = recall(images, texts, caption_ids(names))
    theirs = recall_at_k(texts.numpy(), images.numpy(), names, names)
    assert len(ours) == 6
    assert ours == pytest.approx({name: theirs[name] for name in ours})
    assert 0 < ours["text_to_image_recall@1"] < 1


def test_held_out_figures_say_what_was_learned():
    module = backbone().train()
    task = ContrastiveTask(module, Held())
    before, _ = task.evaluate(module.eval())
    optimizer = torch.optim.AdamW(module.train().parameters(), lr=2e-3)
    for _ in range(40):
        optimizer.zero_grad()
        task.loss(batch(12), generator())[0].backward()
        optimizer.step()
    after, sheets = task.evaluate(module.eval())
    assert before["held_out"] == after["held_out"] == 12
    assert after["held_out_text_to_image_recall@1"] > before["held_out_text_to_image_recall@1"]
    assert after["held_out_loss"] < before["held_out_loss"]
    assert sheets == {}
    assert ContrastiveTask(module).evaluate(module) == ({}, {})
