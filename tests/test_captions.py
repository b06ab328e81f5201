"""Laws of `caption` and `caption_score`, from pictures, from vectors, and on any backbone."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmfm.captioner import Captioner, Vocabulary
from mmfm.config import BackboneConfig, CaptionerConfig, ModelConfig
from mmfm.encoders.backbone import Backbone
from mmfm.errors import InputError
from mmfm.model import MMFM

VIT = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
BACKBONES = {
    "CLIP": {"vision_cfg": VIT, "text_cfg": TEXT},
    "average": {"vision_cfg": {**VIT, "pool_type": "avg"}, "text_cfg": TEXT},
    "SigLIP": {
        "custom_text": True, "init_logit_bias": -10, "vision_cfg": VIT,
        "text_cfg": {**TEXT, "pool_type": "last", "no_causal_mask": True, "proj_bias": True},
    },
    "ResNet": {
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 16},
        "text_cfg": TEXT,
    },
    "timm": {
        "vision_cfg": {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "avg",
                       "timm_proj": "linear", "image_size": 224, "timm_model_pretrained": False},
        "text_cfg": TEXT,
    },
}  # fmt: skip


@pytest.fixture
def images():
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    return [Image.fromarray(pixels) for pixels in noise]


@pytest.mark.parametrize("name", BACKBONES)
def test_any_backbone_that_shows_its_tokens_can_be_captioned(name, images):
    torch.manual_seed(0)
    size = BACKBONES[name]["vision_cfg"]["image_size"]
    config = BackboneConfig(
        model_cfg={"embed_dim": 24, **BACKBONES[name]}, preprocess_cfg={"size": [size, size]}
    )
    backbone = Backbone.from_config(config).eval()
    seen = backbone.encode_images(torch.randn(1, 3, size, size))
    vocabulary = Vocabulary.build(["red apple"], backbone.tokenizer)
    head = CaptionerConfig(
        vocab_size=len(vocabulary), token_width=seen.tokens.shape[2], pooled_width=24, width=32,
        depth=1, num_heads=2, max_tokens=12,
    )  # fmt: skip
    model = MMFM(
        ModelConfig(name=name, backbone=config, captioner=head), backbone,
        captioner=Captioner(head), vocabulary=vocabulary, device="cpu",
    )  # fmt: skip
    for ports in ("both", "grid", "pooled"):
        said = model.caption(images, max_tokens=4, ports=ports, prompt="red")
        assert len(said) == 4 and all(text.startswith("red") for text in said)
    assert np.isfinite(model.caption_score(images, ["red apple"] * 4)).all()


def test_a_vector_says_what_its_picture_says_by_the_pooled_port(tiny_model, images):
    vectors = tiny_model.embed_images(images, precision="fp32")
    for how in ({}, {"num_beams": 3}, {"top_p": 0.9, "seed": 1}, {"prompt": "red"}):
        from_pictures = tiny_model.caption(images, ports="pooled", max_tokens=8, **how)
        assert tiny_model.caption(embeddings=vectors, max_tokens=8, **how) == from_pictures
    texts = ["red apple", "dog", "a", "moon"]
    scores = tiny_model.caption_score(images, texts, ports="pooled")
    assert tiny_model.caption_score(embeddings=vectors, texts=texts) == pytest.approx(
        scores, abs=1e-4
    )
    assert not np.allclose(tiny_model.caption_score(images, texts), scores, atol=1e-3)


def test_every_picture_can_have_its_own_prompt(tiny_model, images):
    prompts = ["red", "", "a drawing of", "red"]
    together = tiny_model.caption(images, prompt=prompts, max_tokens=5, batch_size=3)
    alone = [tiny_model.caption(i, prompt=p, max_tokens=5)[0] for i, p in zip(images, prompts)]
    assert together == alone
    with pytest.raises(InputError, match="3 prompts for 4 images"):
        tiny_model.caption(images, prompt=prompts[:3], max_tokens=5)


def test_the_table_of_scores_has_the_scores_of_pairs(tiny_model, images):
    texts = ["red apple", "dog", "the moon over a sea"]
    table = tiny_model.caption_scores(images, texts)
    assert table.shape == (4, 3)
    for column, text in enumerate(texts):
        pairs = tiny_model.caption_score(images, [text] * 4)
        assert table[:, column] == pytest.approx(pairs, abs=1e-4)
    relative = tiny_model.caption_scores(images, texts, relative=True)
    assert relative.mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-5)
    assert np.allclose(relative - table, (relative - table)[:1], atol=1e-5)


def test_impossible_calls_are_refused(tiny_model, images):
    vectors = tiny_model.embed_images(images)
    with pytest.raises(InputError, match="ports is 'eyes'"):
        tiny_model.caption(images, ports="eyes")
    with pytest.raises(InputError, match="open port"):
        tiny_model.caption(embeddings=vectors, ports="grid")
    with pytest.raises(InputError, match="2 texts for 4 images"):
        tiny_model.caption_score(embeddings=vectors, texts=["a dog", "a cat"])
    with pytest.raises(InputError, match="one of the two"):
        tiny_model.caption_scores(texts=["a"])
