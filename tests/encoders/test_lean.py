"""Lean passes give open_clip's own vectors, whatever the batch; other towers are left alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mmfm.encoders import architectures, lean
from mmfm.presets import preset

VISION = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 3, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 99, "width": 64, "heads": 4, "layers": 3}
FULL = {**TEXT, "no_causal_mask": True, "proj_bias": True}
KINDS = {
    "class token": {"vision_cfg": VISION, "text_cfg": TEXT},
    "average, QuickGELU": {
        "quick_gelu": True,
        "vision_cfg": {**VISION, "pool_type": "avg"},
        "text_cfg": TEXT,
    },
    "norm after pooling, scaled layers": {
        "vision_cfg": {**VISION, "pool_type": "avg", "final_ln_after_pool": True,
                       "ls_init_value": 0.5, "no_ln_pre": True},
        "text_cfg": {**TEXT, "ls_init_value": 0.5},
    },
    "odd pictures, tanh": {
        "vision_cfg": {**VISION, "image_size": 35, "act_kwargs": {"approximate": "tanh"}},
        "text_cfg": {**TEXT, "act_kwargs": {"approximate": "tanh"}},
    },
    "own text tower, end by id": {
        "custom_text": True,
        "vision_cfg": VISION,
        "text_cfg": {**TEXT, "pool_type": "eos", "eos_id": 7},
    },
    "full attention, last": {
        "custom_text": True,
        "vision_cfg": VISION,
        "text_cfg": {**FULL, "pool_type": "last"},
    },
    "full attention, first": {
        "custom_text": True,
        "vision_cfg": VISION,
        "text_cfg": {**FULL, "pool_type": "first"},
    },
    "causal, last, no projection": {
        "custom_text": True,
        "vision_cfg": VISION,
        "text_cfg": {**TEXT, "pool_type": "last", "proj_type": "none"},
    },
}  # fmt: skip
OTHERS = {
    "attention pooling": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2},
    "normed queries": {**VISION, "qk_norm": True},
    "ResNet": {"image_size": 32, "layers": [1] * 4, "width": 16, "patch_size": None},
}
OTHER_TEXTS = {
    "class token": {**TEXT, "embed_cls": True},
    "normed queries": {**TEXT, "qk_norm": True},
}


def build(model_cfg):
    """open_clip's model of random weights with everything that training would move, moved."""
    size = model_cfg["vision_cfg"]["image_size"]
    preprocess = {**preset("tiny").backbone.preprocess_cfg, "size": [size, size]}
    torch.manual_seed(0)
    towers = architectures.build({"embed_dim": 24, **model_cfg}, preprocess)[0].eval()
    with torch.no_grad():
        for parameter in towers.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return towers


@pytest.fixture(scope="module", params=sorted(KINDS))
def towers(request):
    return build(KINDS[request.param])


def texts_of(lengths, seed, alike):
    """Ids (B, 16): start 97, words, end 98 or 7, zeros; `alike` words begin every text the same."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.zeros(len(lengths), 16, dtype=torch.long)
    first = torch.randint(8, 90, (16,), generator=random)
    for row, length in zip(ids, lengths, strict=True):
        words = torch.randint(8, 90, (length,), generator=random)
        words[:alike] = first[: min(alike, length)]
        row[: length + 2] = torch.cat([torch.tensor([97]), words, torch.tensor([98])])
    return ids


def close(ours, wanted):
    ours, wanted = F.normalize(ours, dim=-1), F.normalize(wanted, dim=-1)
    return torch.allclose(ours, wanted, atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("count", [1, 2, 5, 60])
def test_pictures_have_open_clips_vectors_in_any_batch(towers, count):
    size = towers.visual.image_size[0]
    images = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))
    encode = lean.image_tower(towers)
    assert close(encode(images), towers.encode_image(images))
    assert close(encode(images[:1]), encode(images)[:1])


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 14), min_size=1, max_size=9),
    seed=st.integers(0, 99),
    alike=st.integers(0, 14),
)
def test_texts_of_any_length_have_open_clips_vectors(towers, lengths, seed, alike):
    ids = texts_of(lengths, seed, alike)
    if getattr(getattr(towers, "text", None), "pool_type", "") == "eos":
        ids[ids == 98] = 7
    with torch.inference_mode():
        assert close(lean.text_tower(towers)(ids), towers.encode_text(ids))


@torch.inference_mode()
def test_a_text_that_never_ends_is_pooled_where_open_clip_pools_it():
    towers = build(KINDS["own text tower, end by id"])
    ids = torch.randint(8, 90, (3, 16), generator=torch.Generator().manual_seed(0))
    assert close(lean.text_tower(towers)(ids), towers.encode_text(ids))


@pytest.mark.parametrize("name", OTHERS)
def test_an_image_tower_of_another_kind_is_left_alone(name):
    assert lean.image_tower(build({"vision_cfg": OTHERS[name], "text_cfg": TEXT})) is None


@pytest.mark.parametrize("name", OTHER_TEXTS)
def test_a_text_tower_of_another_kind_is_left_alone(name):
    cfg = {"custom_text": True, "vision_cfg": VISION, "text_cfg": OTHER_TEXTS[name]}
    assert lean.text_tower(build(cfg)) is None


def test_another_mask_is_noticed():
    towers = build(KINDS["class token"])
    towers.attn_mask = torch.zeros_like(towers.attn_mask)
    assert lean.text_tower(towers) is None
    towers = build(KINDS["full attention, last"])
    towers.text.use_pad_mask = True
    assert lean.text_tower(towers) is None


@torch.inference_mode()
def test_weights_are_shared_and_not_copied():
    towers = build(KINDS["class token"])
    encode_image, encode_text = lean.image_tower(towers), lean.text_tower(towers)
    images, ids = torch.randn(2, 3, 32, 32), texts_of([3, 5], 0, 1)
    with torch.no_grad():
        for parameter in towers.parameters():
            parameter.mul_(1.1)
    assert close(encode_image(images), towers.encode_image(images))
    assert close(encode_text(ids), towers.encode_text(ids))
