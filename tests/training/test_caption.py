"""The caption head alone, on cached embeddings: it learns twelve drawings by heart."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmfm.captioner.network import Captioner
from mmfm.captioner.vocabulary import Vocabulary
from mmfm.data.questions import every_text
from mmfm.encoders.backbone import Backbone
from mmfm.errors import DataError
from mmfm.presets import preset
from mmfm.shapes import Embeddings
from mmfm.training.caption import (
    CaptionData,
    CaptionShares,
    CaptionTask,
    caption_loss,
    caption_pair,
)
from mmfm.training.seen import SeenInMemory, SeenViews
from mmfm.training.text_only import mean_shift, text_vectors, texts_as_pictures


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return Backbone.from_config(preset("tiny").backbone).eval()


@pytest.fixture
def task(backbone, drawings):
    texts = every_text([c[0] for c in drawings.captions], drawings.meta)
    vocabulary = Vocabulary.build(texts, backbone.tokenizer)
    torch.manual_seed(0)
    captioner = Captioner(preset("tiny", caption_vocab_size=len(vocabulary)).captioner)
    seen = SeenInMemory.of_pictures(backbone, drawings)
    data = CaptionData(seen, drawings.captions, drawings.meta)
    return CaptionTask(captioner, vocabulary, data, data)


def test_it_learns_its_drawings_by_heart_through_the_loop(task, learn_by_heart):
    before, after, sheets = learn_by_heart(task)
    assert sheets == {}
    assert after["held_out_captions"] == 12
    assert before["held_out_exact"] < 0.2
    assert after["held_out_exact"] > 0.9
    assert after["held_out_token_f1"] > 0.9
    assert after["held_out_caption_loss"] < 0.1 * before["held_out_caption_loss"]


def test_the_loss_repeats_with_its_generator(task):
    first, again, other = (
        task.loss(np.arange(8), torch.Generator().manual_seed(seed))[0].item() for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("shares", "grid_learns", "pooled_learns"),
    [
        (CaptionShares(grid_drop=1), False, True),
        (CaptionShares(grid_drop=0, pooled_drop=1), True, False),
        (CaptionShares(grid_drop=0, pooled_drop=0), True, True),
    ],
)
def test_shares_decide_which_port_is_open(task, shares, grid_learns, pooled_learns):
    task.shares = shares
    task.loss(np.arange(12), torch.Generator().manual_seed(0))[0].backward()

    def learns(layer):
        return layer.weight.grad is not None and bool(layer.weight.grad.abs().max() > 1e-9)

    assert learns(task.module.grid_in) == grid_learns
    assert learns(task.module.pooled_in) == pooled_learns


def test_the_held_out_loss_does_not_depend_on_how_it_is_cut(task, monkeypatch):
    with torch.inference_mode():
        whole, _ = task.evaluate(task.module.eval())
        monkeypatch.setattr("mmfm.training.caption._CHUNK", 5)
        parts, _ = task.evaluate(task.module)
    assert parts == pytest.approx(whole, abs=2e-4)


def test_the_pooled_vector_alone_is_enough(task):
    """Data without grids: the grid port is closed by itself."""
    bare = replace(task.train, seen=SeenInMemory(task.train.seen.pooled))
    alone = CaptionTask(task.module, task.vocabulary, bare, bare, CaptionShares(pooled_drop=0))
    assert torch.isfinite(alone.loss(np.arange(12), torch.Generator().manual_seed(0))[0])


def test_a_loss_counts_its_tokens(task):
    seen = task.train.seen.take(np.arange(2))
    _, short = caption_loss(task.module, task.vocabulary, seen, [("", "red"), ("", "red")])
    _, asked = caption_loss(task.module, task.vocabulary, seen, [("style:", "red")] * 2)
    assert short == asked == 4  # the word and the end, twice; prompts do not count


def test_what_the_caption_head_is_asked():
    captions = ("red circle", "a flat drawing of red circle")
    meta = {"style": "flat", "keywords": ["red", "round"]}
    assert caption_pair(captions, meta, 0.0) == ("", "red circle")
    assert caption_pair(captions, meta, 0.8) == ("a drawing of", "red circle")
    assert caption_pair(captions, meta, 0.9) == ("style:", "flat")
    assert caption_pair(captions, meta, 0.99) == ("keywords:", "red, round")
    assert caption_pair(captions, {}, 0.99) == ("style:", "red circle")  # nothing else is known


def test_slices_of_like_length_change_the_work_and_not_the_loss(task):
    seen = task.train.seen.take(np.arange(6))
    pairs = [("", "red"), ("style:", "flat"), ("", "a long name of a thing")] * 2
    how = (task.module.eval(), task.vocabulary, seen, pairs)
    with torch.inference_mode():
        whole, count = caption_loss(*how)
        for slices in (2, 3, 9):
            loss, tokens = caption_loss(*how, slices=slices)
            assert loss.item() == pytest.approx(whole.item(), rel=1e-4)
            assert tokens == count


def test_dropped_tokens_are_not_read_and_one_always_is(task):
    seen = task.train.seen.take(np.arange(4))
    pairs, generator = [("", "red")] * 4, torch.Generator().manual_seed(0)
    shares = CaptionShares(grid_drop=0, pooled_drop=1, pooled_noise=0, token_drop=1)
    first = Embeddings(seen.pooled, seen.tokens[:, :1])
    with torch.inference_mode():
        dropped, _ = caption_loss(task.module, task.vocabulary, seen, pairs, shares, generator)
        closed = replace(shares, token_drop=0)
        alone, _ = caption_loss(task.module, task.vocabulary, first, pairs, closed, generator)
    assert dropped.item() == pytest.approx(alone.item(), rel=1e-5)


def test_views_are_drawn_alike_and_seen_in_their_order(task):
    pooled = torch.nn.functional.normalize(torch.randn(12, 32), dim=-1)
    views = SeenViews([SeenInMemory(pooled), SeenInMemory(-pooled)])
    rows = np.array([13, 2, 2, 23, 0])
    assert torch.equal(views.take(rows).pooled, torch.cat([pooled, -pooled])[rows])
    data = CaptionData(views, task.train.captions, task.train.meta)
    assert data.num_views == 2
    with pytest.raises(DataError):
        CaptionData(SeenInMemory(pooled[:7]), task.train.captions, task.train.meta)


def test_shifted_texts_lie_where_pictures_do(task, backbone):
    pictures = task.train.seen.pooled
    names = [captions[0] for captions in task.train.captions]
    texts = text_vectors(backbone, names)
    shift = mean_shift(pictures, texts)
    moved = texts_as_pictures(texts, shift)
    assert moved.pooled.norm(dim=1) == pytest.approx(torch.ones(12), abs=1e-5)
    assert (moved.pooled.mean(0) - pictures.mean(0)).norm() < 0.5 * shift.norm()
    assert torch.allclose(texts_as_pictures(texts, 0.0).pooled, texts, atol=1e-6)
    data = CaptionData(moved, task.train.captions, [{}] * 12)
    alone = CaptionTask(task.module, task.vocabulary, data, data, CaptionShares(grid_drop=1))
    assert torch.isfinite(alone.loss(np.arange(12), torch.Generator().manual_seed(0))[0])
