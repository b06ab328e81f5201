"""A fresh adapter changes nothing, all of it learns, and merging keeps what it says."""

import copy

import numpy as np
import open_clip
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmfm import lora
from mmfm.config import BackboneConfig
from mmfm.encoders.backbone import Backbone
from mmfm.errors import InputError
from mmfm.layers.plain import plain, wrapped
from mmfm.shapes import Embeddings
from tests.lora.conftest import PARTS, stir
from tests.roberta import roberta, text_of

TEXT = {"context_length": 16, "vocab_size": 300, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": 64, "patch_size": 16, "width": 48, "layers": 2, "head_width": 16}
TOWERS = {
    "CLIP": {"vision_cfg": VIT},
    "qk norm": {"vision_cfg": {**VIT, "qk_norm": True, "scale_fc": True}},
    "ResNet": {"vision_cfg": {"image_size": 64, "layers": [1] * 4, "width": 16,
                              "patch_size": None}},
    "timm ViT": {"vision_cfg": {"timm_model_name": "test_vit", "image_size": 160,
                                "timm_proj": "linear"}},
    "Hugging Face": {"vision_cfg": VIT, "custom_text": True, "hf": True},
    "SigLIP": {
        "vision_cfg": {"timm_model_name": "test_vit3", "image_size": 160, "timm_pool": "map",
                       "timm_proj": "linear"},
        "custom_text": True, "init_logit_bias": -10,
        "text_cfg": {"pool_type": "last", "no_causal_mask": True, "proj_bias": True},
    },
    "CoCa": {
        "custom_text": True, "text_cfg": {"embed_cls": True, "output_tokens": True},
        "vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_heads": 2,
                       "output_tokens": True},
        "multimodal_cfg": {"context_length": 16, "vocab_size": 300, "width": 32, "heads": 2,
                           "layers": 1},
    },
}  # fmt: skip
LIKELY = {
    "CLIP": ("attn", "c_fc", "c_proj"), "timm ViT": ("qkv", "proj", "fc1", "fc2"),
    "Hugging Face": ("query", "key", "value", "dense"),
}  # fmt: skip


def backbone_of(name, folder=None):
    given = dict(TOWERS[name])
    cfg = {"embed_dim": 24, "text_cfg": {**TEXT, **given.pop("text_cfg", {})}, **given}
    if cfg.pop("hf", False):
        cfg["text_cfg"] = text_of(roberta(folder))
    torch.manual_seed(0)
    return Backbone.from_config(BackboneConfig(model_cfg=cfg, preprocess_cfg={})).eval()


def contrast(backbone):
    """Vectors of both towers for two made-up pairs, as contrastive training has them."""
    random = torch.Generator().manual_seed(1)
    size = backbone.config.image_size
    pixels = torch.randint(0, 256, (2, size, size, 3), generator=random, dtype=torch.uint8)
    ids = torch.randint(3, 299, (2, backbone.config.context_length), generator=random)
    return torch.stack(backbone(pixels, ids))


def learning(part):
    return {name: p for name, p in part.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", TOWERS)
def test_gradients_reach_every_tensor_of_an_adapter_of_towers(name, tmp_path):
    backbone = backbone_of(name, tmp_path)
    before, learnt = list(backbone.state_dict()), list(learning(backbone))
    frozen = copy.deepcopy(backbone).requires_grad_(False)  # torch's attention rounds otherwise
    with torch.no_grad():
        exact = contrast(frozen)
    names = lora.add(backbone, rank=2)
    assert {end for n in names if (end := n.rpartition(".")[2])} >= set(LIKELY.get(name, ()))
    with torch.no_grad():
        assert torch.equal(contrast(backbone), exact)  # fresh: no bit
    own = learning(backbone)
    assert own and all(".lora_" in key for key in own)
    stir(backbone)
    F.cross_entropy(contrast(backbone).flatten(1), torch.arange(2)).backward()
    assert [key for key, p in own.items() if p.grad is None or not p.grad.any()] == []
    told = contrast(backbone).detach()
    assert (told - exact).abs().max() > 1e-3
    lora.merge(backbone)
    assert (contrast(backbone) - told).abs().max() < 1e-5
    assert sorted(backbone.state_dict()) == sorted(before)
    assert sorted(learning(backbone)) == sorted(learnt)


def test_open_clip_takes_the_merged_weights(model):
    lora.add(model.backbone, rank=2)
    stir(model.backbone)
    lora.merge(model.backbone)
    cfg = copy.deepcopy(dict(model.config.backbone.model_cfg))
    open_clip.CLIP(**cfg).load_state_dict(model.backbone.towers.state_dict(), strict=True)


@pytest.mark.parametrize("part", ["captioner", "decoder"])
def test_gradients_reach_every_tensor_of_an_adapter_of_a_head(model, part):
    head = getattr(model, part)
    names = lora.add(head, rank=2)
    stir(head)
    random = torch.Generator().manual_seed(0)
    width = model.config.captioner.token_width
    tokens, pooled = (
        torch.randn(2, 5, width, generator=random),
        torch.randn(2, 32, generator=random),
    )
    seen = Embeddings(F.normalize(pooled, dim=1), tokens, torch.ones(2, 5, dtype=torch.bool))
    if part == "captioner":
        ids = torch.randint(0, 514, (2, 7), generator=random)
        mask = torch.ones(2, 7, dtype=torch.bool)
        mask[:, -1] = False
        head.loss(seen, ids, mask).backward()
    else:
        config = head.config
        x_1 = torch.randn(2, config.channels, config.map_size, config.map_size, generator=random)
        both = torch.ones(2, dtype=torch.bool)
        head.loss(x_1, seen, both, both, random).backward()
        kinds = {type(head.network.get_submodule(n).base_layer) for n in names}
        assert len(kinds) > 1  # linear maps and convolutions
    own = learning(head)
    assert [key for key, p in own.items() if p.grad is None or not p.grad.any()] == []
    assert all(".lora_" in key for key in own)


def test_two_pairs_are_told_apart_by_an_adapter_alone(model):
    """Overfit: contrastive steps on two pairs, the towers themselves untouched."""
    before = copy.deepcopy(model.backbone.state_dict())
    lora.add(model.backbone, rank=4)
    adam = torch.optim.Adam(learning(model.backbone).values(), lr=0.003)
    losses = []
    for _ in range(40):
        images, texts = contrast(model.backbone)
        losses.append(F.cross_entropy(10 * images @ texts.T, torch.arange(2)))
        adam.zero_grad()
        losses[-1].backward()
        adam.step()
    assert losses[-1] < 0.1 * losses[0]
    lora.discard(model.backbone)
    after = model.backbone.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_a_fresh_adapter_of_everything_changes_no_bit(model, says):
    exact, before = says(model), model.backbone_hash
    for part in PARTS:
        lora.add(getattr(model, part), rank=2)
    assert_equal(says(model), exact)
    assert model.backbone_hash == before


def test_without_it_everything_is_as_before_bit_for_bit(model, says):
    with torch.no_grad():
        model.backbone.towers.visual.transformer.resblocks[0].mlp.c_fc.weight[0] = -0.0
    exact, before = says(model), model.backbone_hash
    for part in PARTS:
        lora.add(getattr(model, part), rank=2)
    assert model.backbone_hash == before  # the sign of a zero included
    for part in PARTS:
        stir(getattr(model, part))
    assert not np.array_equal(says(model)["captions"], exact["captions"])
    for part in PARTS:
        lora.discard(getattr(model, part))
    assert_equal(says(model), exact)
    assert model.backbone_hash == before


def test_every_way_to_compute_has_the_adapter_and_keeps_it_when_merged(model, says):
    """Vectors by the lean tower, captions by the stepper, pictures: before, while open, merged."""
    base = says(model)
    state = {part: sorted(getattr(model, part).state_dict()) for part in PARTS}
    for part in PARTS:
        lora.add(getattr(model, part), rank=2)
        stir(getattr(model, part))
    told, opened = says(model), model.backbone_hash
    for part in PARTS:
        assert lora.is_open(getattr(model, part))
        lora.merge(getattr(model, part))
    merged = says(model)
    for kind in ("images", "texts", "captions"):
        assert np.abs(told[kind] - base[kind]).max() > 1e-3
        assert np.abs(told[kind] - merged[kind]).max() < 1e-5
    assert told["pictures"] != base["pictures"]
    assert_close(told["pictures"], merged["pictures"])
    assert {part: sorted(getattr(model, part).state_dict()) for part in PARTS} == state
    assert model.backbone_hash == opened  # of the weights with the change in them


def test_the_flow_predicts_the_same_merged(model):
    network = model.decoder.network
    lora.add(model.decoder, rank=2)
    stir(model.decoder)
    random = torch.Generator().manual_seed(0)
    config = model.decoder.config
    x = torch.randn(2, config.channels, config.map_size, config.map_size, generator=random)
    with torch.no_grad():
        seen = Embeddings(F.normalize(torch.randn(2, 32, generator=random), dim=1))
        condition = network.conditioner(seen)
        t = torch.tensor([0.2, 0.7])
        open_ = network(x, t, condition)
        lora.merge(model.decoder)
        merged = network(x, t, network.conditioner(seen))
    assert (open_ - merged).abs().max() < 1e-5


def test_training_goes_on_after_a_look_in_inference_mode(model, ellipses):
    lora.add(model.backbone, rank=2)
    stir(model.backbone)
    first = next(iter(learning(model.backbone).values()))
    for _ in range(2):
        contrast(model.backbone).sum().backward()
        with torch.no_grad():
            first.add_(0.1)
        model.caption(ellipses[:1], max_tokens=3)
        model.embed_images(ellipses[:1])


def test_weights_do_not_wander_while_an_adapter_learns(model):
    """PEFT adds to and takes from an attention's weights at every pass; the base stays."""
    before = copy.deepcopy(model.backbone.state_dict())
    lora.add(model.backbone, rank=2)
    stir(model.backbone)
    with torch.no_grad():
        for _ in range(20):
            contrast(model.backbone)
    open_ = {k.replace(".base_layer", ""): v for k, v in model.backbone.state_dict().items()}
    assert all(torch.equal(open_[key], value) for key, value in before.items())
    lora.discard(model.backbone)
    after = model.backbone.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_an_open_part_may_be_moved_copied_and_filled(model):
    lora.add(model.backbone, rank=2)
    stir(model.backbone)
    told = contrast(model.backbone).detach()
    twin = copy.deepcopy(model.backbone)
    assert torch.equal(contrast(twin), told)
    stir(twin, seed=9)
    assert not torch.equal(contrast(twin), told) and torch.equal(contrast(model.backbone), told)
    twin.load_state_dict(model.backbone.state_dict())
    assert torch.equal(contrast(twin), told)
    twin.double()
    assert contrast(twin).dtype == torch.float64
    assert (contrast(twin) - told).abs().max() < 1e-5
    lora.merge(twin)
    assert (contrast(twin) - told).abs().max() < 1e-5


def test_a_bundle_saved_while_open_is_that_of_the_merged_model(model, tmp_path):
    for part in PARTS:
        lora.add(getattr(model, part), rank=2)
        stir(getattr(model, part))
    model.save_pretrained(tmp_path / "bundle")
    for part in PARTS:
        lora.merge(getattr(model, part))
    again = type(model).from_pretrained(tmp_path / "bundle", device="cpu")
    for part in PARTS:
        found, wanted = getattr(again, part).state_dict(), getattr(model, part).state_dict()
        assert all(torch.equal(found[key], value) for key, value in wanted.items())


def test_plain_shares_what_is_not_changed(model):
    assert plain(model.backbone) is model.backbone
    lora.add(model.captioner, rank=2)
    made = plain(model.captioner)
    assert not wrapped(made) and wrapped(model.captioner)
    assert made.token_embedding.weight is model.captioner.token_embedding.weight


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (["nowhere"], "match no linear"),
        (["out_proj"], "would learn nothing"),
        ("out_proj", "would learn nothing"),
    ],
)
def test_targets_that_cannot_learn_are_refused(model, targets, told):
    before = list(learning(model.backbone))
    with pytest.raises(InputError, match=told):
        lora.add(model.backbone, targets=targets)
    assert not lora.is_open(model.backbone)
    assert list(learning(model.backbone)) == before


def test_a_read_only_weight_of_a_resnet_is_refused():
    backbone = backbone_of("ResNet")
    with pytest.raises(InputError, match="would learn nothing"):
        lora.add(backbone, targets=["q_proj"])


def test_targets_may_be_named(model):
    names = lora.add(model.backbone, targets=["attn"], rank=1)
    assert len(names) == 4 and all(name.endswith(".attn") for name in names)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"alpha": 0}, {"alpha": float("nan")}])
def test_impossible_sizes_are_refused(model, wrong):
    with pytest.raises(InputError, match="wanted a positive number"):
        lora.add(model.captioner, **wrong)


def test_one_adapter_learns_at_a_time(model):
    lora.add(model.captioner)
    with pytest.raises(InputError, match="learns an adapter already"):
        lora.add(model.captioner)
    lora.merge(model.captioner)
    with pytest.raises(InputError, match="no adapter to merge"):
        lora.merge(model.captioner)
    with pytest.raises(InputError, match="no adapter learns"):
        lora.discard(model.captioner)


def test_any_module_may_have_one():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    exact = net(torch.ones(1, 4))
    assert lora.add(net, rank=1) == ["0", "2"]
    assert torch.equal(net(torch.ones(1, 4)), exact)
    with pytest.raises(InputError, match="no linear or attention layer"):
        lora.add(nn.Sequential(nn.ReLU()))


def test_without_peft_it_says_how_to_get_it(model, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(InputError, match=r"pip install 'mmfm\[lora\]'"):
        lora.add(model.captioner)
    assert all(p.requires_grad for p in model.captioner.parameters())


def assert_equal(found, wanted):
    for kind, value in wanted.items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(found[kind], value), kind
        else:
            assert found[kind] == value, kind


def assert_close(found, wanted):
    """Pictures as bytes that differ by at most one level."""
    for one, other in zip(found, wanted, strict=True):
        a, b = (np.frombuffer(x, np.uint8).astype(int) for x in (one, other))
        assert np.abs(a - b).max() <= 1
