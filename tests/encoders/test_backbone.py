"""The backbone is open_clip's own model: what one saves the other loads, and both say the same."""

import open_clip
import pytest
import torch
from torch.nn import functional as F

from mmfm.config import BackboneConfig
from mmfm.encoders.architectures import WEIGHTS_FILE
from mmfm.encoders.backbone import Backbone
from mmfm.encoders.published import from_open_clip
from mmfm.errors import ModelError
from mmfm.presets import preset

TEXTS = ["a red circle", "tree", "a very long text " * 10, "naïve ☃"]
VISION = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
OTHERS = {  # open_clip's other kinds of towers, in small
    "class token": {"vision_cfg": VISION, "text_cfg": TEXT},
    "SigLIP's text tower": {
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": VISION,
        "text_cfg": {**TEXT, "pool_type": "last", "no_causal_mask": True, "proj_bias": True},
    },
    "attention pooling": {
        "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2},
        "text_cfg": TEXT,
    },
    "ResNet": {
        "vision_cfg": {"image_size": 32, "layers": [1] * 4, "width": 16, "patch_size": None},
        "text_cfg": TEXT,
    },
    "timm": {
        "vision_cfg": {"image_size": 32, "timm_model_name": "convnext_atto", "timm_pool": ""},
        "text_cfg": TEXT,
    },
}


def build(name):
    """A backbone with random weights of one of the kinds above."""
    preprocess = {**preset("tiny").backbone.preprocess_cfg, "size": [32, 32]}
    torch.manual_seed(0)
    cfg = {"embed_dim": 24, **OTHERS[name]}
    return Backbone.from_config(BackboneConfig(model_cfg=cfg, preprocess_cfg=preprocess)).eval()


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return Backbone.from_config(preset("tiny").backbone).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def folder(backbone, tmp_path):
    backbone.save(tmp_path, torch.float32)
    return tmp_path


@torch.inference_mode()
def same(backbone, towers, images):
    """Whether a backbone and open_clip's model embed pictures and texts alike."""
    ids = backbone.tokenize(TEXTS)
    seen, said = backbone.encode_images(images).pooled, backbone.encode_texts(ids).pooled
    wanted_seen = F.normalize(towers.encode_image(images), dim=-1)
    wanted_said = F.normalize(towers.encode_text(ids), dim=-1)
    return torch.allclose(seen, wanted_seen, atol=1e-6) and torch.allclose(
        said, wanted_said, atol=1e-6
    )


def test_open_clip_loads_what_is_saved(backbone, folder, images):
    towers, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    assert same(backbone, towers.eval(), images)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    assert torch.equal(tokenizer(TEXTS), backbone.tokenize(TEXTS))


def test_open_clip_makes_the_same_pixels_of_a_picture(backbone, folder):
    import numpy as np
    from PIL import Image

    from mmfm.preprocess.transform import Preprocess

    transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")[2]
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    ours = Preprocess.from_open_clip(backbone.config.preprocess_cfg)(picture)
    assert torch.allclose(torch.from_numpy(ours), transform(picture), atol=1e-6)


@torch.inference_mode()
def test_the_pooled_vector_is_made_of_the_tokens(backbone, images):
    seen = backbone.encode_images(images)
    assert seen.tokens.shape == (3, 16, 32)
    # this tower pools by the mean, then projects
    by_hand = seen.tokens.mean(dim=1) @ backbone.towers.visual.proj
    assert torch.allclose(torch.nn.functional.normalize(by_hand, dim=1), seen.pooled, atol=1e-6)
    assert torch.allclose(seen.pooled.norm(dim=1), torch.ones(3))


@torch.inference_mode()
def test_trimmed_text_equals_the_full_length(backbone):
    assert backbone.trims_text
    for texts in (TEXTS, TEXTS[:2], ["a"]):
        ids = backbone.tokenize(texts)
        said = backbone.encode_texts(ids)
        assert said.tokens.shape[:2] == said.mask.shape
        wanted = F.normalize(backbone.towers.encode_text(ids), dim=-1)
        assert torch.allclose(said.pooled, wanted, atol=1e-6)
    # the shortest batch is really cut: start, one word, end
    assert said.mask.tolist() == [[True, True, True]]


@torch.inference_mode()
def test_longer_batch_mates_change_nothing(backbone):
    alone = backbone.encode_texts(backbone.tokenize(["tree"]))
    together = backbone.encode_texts(backbone.tokenize(["tree", "a very long text " * 10]))
    length = alone.tokens.shape[1]
    assert together.mask[0].sum() == length
    assert torch.allclose(together.tokens[0, :length], alone.tokens[0], atol=1e-5)
    assert torch.allclose(together.pooled[0], alone.pooled[0], atol=1e-6)


@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_of_towers_embed_as_open_clip_does(name, images, tmp_path):
    backbone = build(name)
    assert same(backbone, backbone.towers, images)
    backbone.save(tmp_path, torch.float32)
    again = from_open_clip(f"local-dir:{tmp_path}")
    again.eval()
    towers = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    assert same(again, towers, images)
    assert same(again, backbone.towers, images)
    assert again.hash() == backbone.hash()
    assert again.config.loss == ("sigmoid" if "SigLIP" in name else "softmax")
    assert (again.logit_bias is None) == ("SigLIP" not in name)


def test_a_round_trip_keeps_every_bit(backbone, folder):
    for again in (from_open_clip(f"local-dir:{folder}"), Backbone.from_config(backbone.config)):
        again.load(folder)
        assert again.hash() == backbone.hash()
        assert again.config.preprocess_cfg["mean"] is not None
        state = again.towers.state_dict()
        for name, value in backbone.towers.state_dict().items():
            assert torch.equal(state[name], value), name


def test_the_hash_changes_with_a_weight_and_with_the_preprocessing(backbone, folder):
    again = Backbone.from_config(backbone.config)
    again.load(folder)
    assert again.hash() == backbone.hash()
    with torch.no_grad():
        again.towers.text_projection[0, 0] += 1e-6
    assert again.hash() != backbone.hash()
    other = BackboneConfig(
        model_cfg=backbone.config.model_cfg,
        preprocess_cfg={**backbone.config.preprocess_cfg, "interpolation": "bilinear"},
    )
    assert Backbone(other, backbone.towers, backbone.tokenizer).hash() != backbone.hash()


def test_half_precision_on_disk_is_single_precision_in_memory(backbone, images, tmp_path):
    backbone.save(tmp_path, torch.float16)
    again = Backbone.from_config(backbone.config).eval()
    again.load(tmp_path)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    with torch.inference_mode():
        one, two = (b.encode_images(images).pooled for b in (again, backbone))
        cosines = (one * two).sum(dim=1)
    assert cosines.min() > 0.999


def test_the_scale_is_capped(backbone):
    assert backbone.logit_scale.item() == pytest.approx(1 / 0.07, rel=1e-4)
    again = Backbone.from_config(backbone.config)
    with torch.no_grad():
        again.towers.logit_scale.fill_(10.0)
    assert again.logit_scale.item() == 100


def damage_weights(folder):
    data = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(data[: len(data) // 2])


def forget_weights(folder):
    (folder / WEIGHTS_FILE).unlink()


@pytest.mark.parametrize("damage", [damage_weights, forget_weights])
def test_damaged_weights_are_refused(backbone, folder, damage):
    damage(folder)
    with pytest.raises(ModelError, match="copy"):
        Backbone.from_config(backbone.config).load(folder)


def test_weights_of_another_shape_are_refused(folder):
    with pytest.raises(ModelError, match="another model"):
        build("class token").load(folder)
