"""Search with frozen towers: maps behind cached vectors equal maps inside the towers."""

import copy

import pytest
import torch
from torch.nn import functional as F

from mmfm.encoders.backbone import Backbone
from mmfm.errors import ModelError
from mmfm.finetuning.projections import Projections, ProjectionTask, fold
from mmfm.presets import preset


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return Backbone.from_config(preset("tiny").backbone).eval()


def maps_of(width):
    maps = Projections(width)
    with torch.no_grad():
        for map_ in maps.parameters():
            map_.add_(0.3 * torch.randn(map_.shape))
    return maps


@torch.no_grad()
def test_folded_in_they_say_the_same(backbone):
    maps = maps_of(backbone.config.embed_dim)
    images = torch.rand(5, 3, 32, 32) * 2 - 1
    ids = backbone.tokenize(["a tree", "a red circle", "rain"])
    seen, said = backbone.encode_images(images).pooled, backbone.encode_texts(ids).pooled
    turned = F.normalize(seen @ maps.pictures, dim=-1), F.normalize(said @ maps.texts, dim=-1)
    tuned = copy.deepcopy(backbone)
    fold(tuned, maps)
    torch.testing.assert_close(tuned.encode_images(images).pooled, turned[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(tuned.encode_texts(ids).pooled, turned[1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_linear_layer_is_folded_too(backbone):
    width = backbone.config.embed_dim
    maps = maps_of(width)
    inside = torch.nn.Linear(7, width)
    before = inside(x := torch.randn(4, 7)) @ maps.texts
    del backbone.towers.text_projection
    backbone.towers.text_projection = inside
    fold(backbone, maps)
    torch.testing.assert_close(inside(x), before, atol=1e-5, rtol=1e-5)


def test_a_tower_without_one_is_refused(backbone):
    backbone.towers.visual.proj = None
    with pytest.raises(ModelError, match="no linear projection"):
        fold(backbone, Projections(backbone.config.embed_dim))


def test_untrained_maps_change_nothing(backbone):
    texts = {"a": F.normalize(torch.randn(32), dim=0), "b": F.normalize(torch.randn(32), dim=0)}
    pairs = (torch.stack(list(texts.values())), ["a", "b"])
    task = ProjectionTask(backbone, None, [("a",), ("b",)], texts, pairs)
    assert task.evaluate(task.module)[0]["held_out_recall@1"] == 1.0
