"""Every family of towers says what open_clip says, token by token, whatever padding is left out."""

import open_clip
import pytest
import torch
from torch.nn import functional as F

from mmfm.config import BackboneConfig
from mmfm.encoders.backbone import Backbone
from tests.roberta import roberta, text_of

SIZE = 64
TEXT = {"context_length": 16, "vocab_size": 300, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": SIZE, "patch_size": 16, "width": 48, "layers": 2, "head_width": 16}
VISION = {
    "class token": VIT,
    "average pooling": {**VIT, "pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True},
    "attention pooling": {**VIT, "attentional_pool": True, "attn_pooler_heads": 2},
    "custom blocks": {**VIT, "qk_norm": True, "scale_fc": True},
    "ResNet": {"image_size": SIZE, "layers": [1] * 4, "width": 16, "patch_size": None},
    "timm ViT": {"timm_model_name": "test_vit", "image_size": 160, "timm_proj": "linear"},
    "timm ViT, average": {"timm_model_name": "test_vit2", "image_size": 160, "timm_proj": "linear"},
    "timm MAP (SigLIP)": {
        "timm_model_name": "test_vit3", "image_size": 160, "timm_pool": "map",
        "timm_proj": "linear",
    },
    "timm Eva": {
        "timm_model_name": "eva02_tiny_patch14_224", "image_size": 224, "timm_pool": "token",
    },
    "timm ConvNeXt": {"timm_model_name": "test_convnext", "image_size": 160},
    "timm FastViT (MobileCLIP)": {"timm_model_name": "fastvit_t8", "image_size": SIZE},
    "timm Swin": {
        "timm_model_name": "swin_tiny_patch4_window7_224", "image_size": 224, "timm_pool": "avg",
    },
}  # fmt: skip
WORDS = {
    "CLIP": {},
    "custom": {"custom_text": True},
    "custom, bias": {"custom_text": True, "text_cfg": {"proj_bias": True}},
    "no projection": {
        "custom_text": True, "text_cfg": {"proj_type": "none", "width": 24, "heads": 2},
    },
    "eos": {"text_cfg": {"pool_type": "eos", "eos_id": 7}},
    "first": {"custom_text": True, "text_cfg": {"pool_type": "first"}},
    "MobileCLIP": {"custom_text": True, "text_cfg": {"no_causal_mask": True}},
    "SigLIP": {
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
TRIMMED = {"CLIP", "custom", "custom, bias", "no projection", "eos", "CoCa", "Hugging Face"}


def build(vision=VIT, text_cfg=None, vision_cfg=None, **more):
    """A backbone with random weights, its norms and biases random too."""
    cfg = {
        "embed_dim": 24, "vision_cfg": vision_cfg or vision,
        "text_cfg": {**TEXT, **(text_cfg or {})}, **more,
    }  # fmt: skip
    torch.manual_seed(0)
    backbone = Backbone.from_config(BackboneConfig(model_cfg=cfg, preprocess_cfg={})).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return backbone


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    return roberta(tmp_path_factory.mktemp("hub") / "roberta")


def some_texts(backbone):
    """ids (4, 16): of 2, 5, 1 and 8 words and an end, with padding behind; one with holes in it."""
    text = backbone.config.model_cfg["text_cfg"]
    end = text.get("eos_id", 2 if "hf_model_name" in text else 299)
    padding = 1 if "hf_model_name" in text else 0
    ids = torch.full((4, text["context_length"]), padding)
    for row, words in zip(ids, (2, 5, 1, 8), strict=True):
        row[:words] = torch.randint(8, 290, (words,))
        row[words] = end
    ids[1, 2] = 0  # CLIP's "!", which is also its padding
    return ids


def theirs(backbone, **inputs):
    """What open_clip's own `forward_intermediates` gives, patches as a map where they are one."""
    pooled_by_attention = getattr(backbone.towers.visual, "attn_pool", None) is not None
    return backbone.towers.forward_intermediates(
        image_indices=1, text_indices=1, image_output_fmt="NCHW",
        normalize_intermediates="text" in inputs or not pooled_by_attention, **inputs,
    )  # fmt: skip


@pytest.mark.parametrize("name", VISION)
@torch.inference_mode()
def test_pictures_and_their_patches_are_those_of_open_clip(name):
    backbone = build({**VISION[name]})
    images = torch.randn(2, 3, *[VISION[name]["image_size"]] * 2)
    seen = backbone.encode_images(images)
    assert seen.pooled.norm(dim=1) == pytest.approx(1)
    wanted = backbone.towers.encode_image(images, normalize=True)
    assert torch.allclose(seen.pooled, wanted, atol=1e-6)
    grid = theirs(backbone, image=images)["image_intermediates"][-1]
    assert torch.allclose(seen.tokens, grid.flatten(2).transpose(1, 2), atol=1e-5)
    assert seen.tokens.shape[1] == grid.shape[2] * grid.shape[3]


@pytest.mark.parametrize("name", WORDS)
@torch.inference_mode()
def test_texts_and_their_words_are_those_of_open_clip(name):
    backbone = build(**WORDS[name])
    ids = some_texts(backbone)
    said = backbone.encode_texts(ids)
    wanted = backbone.towers.encode_text(ids, normalize=True)
    assert torch.allclose(said.pooled, wanted, atol=1e-6)
    tokens = theirs(backbone, text=ids)["text_intermediates"][-1]
    length = said.tokens.shape[1]
    assert torch.allclose(said.tokens, tokens[:, :length], atol=1e-5)
    assert backbone.trims_text == (name in TRIMMED)
    assert (length < ids.shape[1]) == (name in TRIMMED)
    if name not in ("SigLIP", "first"):  # their ids alone do not tell words from padding
        assert said.mask.sum(dim=1).tolist() == [3, 6, 2, 9]
        assert said.mask.shape == said.tokens.shape[:2]


@pytest.mark.parametrize("name", sorted(TRIMMED - {"Hugging Face"}))
@torch.inference_mode()
def test_a_text_of_full_length_loses_nothing(name):
    backbone = build(**WORDS[name])
    ids = torch.randint(8, 290, (2, 16))
    ids[:, -1] = WORDS[name].get("text_cfg", {}).get("eos_id", 299)
    said = backbone.encode_texts(ids)
    assert said.mask.all() and said.tokens.shape[1] == 16
    wanted = backbone.towers.encode_text(ids, normalize=True)
    assert torch.allclose(said.pooled, wanted, atol=1e-6)


@pytest.mark.parametrize("name", sorted(TRIMMED - {"Hugging Face"}))
def test_gradients_are_those_of_open_clip(name):
    backbone = build(**WORDS[name])
    ids = some_texts(backbone)
    aim = torch.randn(4, 24)
    found = []
    for vectors in (backbone.encode_texts(ids).pooled,
                    F.normalize(backbone.towers.encode_text(ids), dim=-1)):  # fmt: skip
        backbone.zero_grad()
        (vectors * aim).sum().backward()
        found.append({n: p.grad.clone() for n, p in backbone.named_parameters()
                      if p.grad is not None})  # fmt: skip
    ours, peer = found
    assert ours.keys() == peer.keys() and len(ours) > 10
    assert all(torch.allclose(ours[n], peer[n], atol=1e-5) for n in ours)


@torch.inference_mode()
def test_a_tower_of_hugging_face_reads_no_padding(hugging_face, tmp_path):
    backbone = build(custom_text=True, text_cfg=text_of(hugging_face))
    ids = some_texts(backbone)
    said = backbone.encode_texts(ids)
    assert backbone.trims_text and said.tokens.shape == (4, 9, 32)
    assert said.mask.sum(dim=1).tolist() == [3, 6, 2, 9]
    wanted = backbone.towers.encode_text(ids, normalize=True)
    assert torch.allclose(said.pooled, wanted, atol=1e-6)
    tower = backbone.towers.text
    tower.output_tokens = True
    _, tokens = tower(ids)
    assert torch.allclose(said.tokens[said.mask], tokens[:, :9][said.mask], atol=1e-5)


@torch.inference_mode()
def test_a_tokenizer_of_hugging_face_tells_padding_and_travels_with_the_model(
    hugging_face, tmp_path
):
    text = {**WORDS["SigLIP"]["text_cfg"], "hf_tokenizer_name": str(hugging_face)}
    backbone = build(**{**WORDS["SigLIP"], "text_cfg": text})
    texts = ["a red tree", "tree", "a"]
    ids = backbone.tokenize(texts)
    assert ids.shape == (3, 16)
    assert backbone.encode_texts(ids).mask.sum(dim=1).tolist() == [5, 3, 3]
    backbone.tokenizer.tokenizer.pad_token = "</s>"  # as SigLIP's own, which ends and pads by one
    ids = backbone.tokenize(texts)
    assert backbone.encode_texts(ids).mask.sum(dim=1).tolist() == [5, 3, 3]

    backbone.save(tmp_path, torch.float32)
    for file in hugging_face.iterdir():
        file.rename(file.with_name("gone-" + file.name))
    try:
        again = Backbone.from_config(backbone.config)
        with pytest.raises(Exception, match="cannot read texts"):
            again.tokenize(texts)
        again.load(tmp_path)
        assert torch.equal(again.tokenize(texts), ids)
        theirs = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
        assert torch.equal(theirs(texts), ids)
    finally:
        for file in hugging_face.iterdir():
            file.rename(file.with_name(file.name.removeprefix("gone-")))
