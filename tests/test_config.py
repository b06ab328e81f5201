"""Configs survive JSON, refuse what they do not know, and cast what a command line gives."""

import json
from dataclasses import dataclass

import pytest

from mmfm.config import (
    BackboneConfig,
    CaptionerConfig,
    DecoderConfig,
    ModelConfig,
    from_dict,
    override,
    to_dict,
)
from mmfm.errors import InputError, ModelError
from mmfm.presets import PRESETS, preset


@pytest.mark.parametrize("space", ["pixel", "grid"])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_survives_json(name, space):
    config = preset(name, space=space)
    assert from_dict(ModelConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_absent_heads_survive_json():
    config = ModelConfig(name="bare", backbone=preset("tiny").backbone)
    again = from_dict(ModelConfig, json.loads(json.dumps(to_dict(config))))
    assert again == config
    assert again.decoder is None


def test_sizes_of_a_backbone_come_from_open_clips_words():
    backbone = preset("tiny").backbone
    assert (backbone.image_size, backbone.embed_dim, backbone.context_length) == (32, 32, 16)
    bare = BackboneConfig(
        model_cfg={"embed_dim": 8, "vision_cfg": {"image_size": [48, 48]}, "text_cfg": {}},
        preprocess_cfg={},
    )
    assert (bare.image_size, bare.context_length) == (48, 77)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_parts_of_a_preset_fit_together(name):
    for space in ("pixel", "grid"):
        config = preset(name, space=space)
        vision = config.backbone.model_cfg["vision_cfg"]
        grid_size = vision["image_size"] // vision["patch_size"]
        assert config.captioner.token_width == config.pixel_decoder.token_width == vision["width"]
        assert config.pixel_decoder.grid_size == grid_size
        decoder = config.decoder
        assert decoder.space == space
        if space == "grid":
            assert (decoder.channels, decoder.map_size) == (vision["width"], grid_size)
        else:
            assert decoder.map_size * decoder.patch_size == vision["image_size"]
            assert decoder.channels == 3 * decoder.patch_size**2


def test_an_unknown_key_is_refused_with_the_near_ones():
    values = to_dict(preset("tiny"))
    values["decoder"]["widhts"] = [16]
    with pytest.raises(InputError, match=r"DecoderConfig has no setting 'widhts'.*widths"):
        from_dict(ModelConfig, values)
    with pytest.raises(InputError, match=r"captioner"):  # nothing near: all are named
        from_dict(ModelConfig, {"zzz": 1})


def test_an_unknown_preset_is_refused():
    with pytest.raises(ModelError, match="mini, tiny"):
        preset("maxi")


@pytest.mark.parametrize(
    "changes",
    [
        {"space": "wavelet"},
        {"widths": (16,)},  # three levels named by the others
        {"widths": (24, 32)},  # not a multiple of the head width
        {"map_size": 7},  # cannot be halved
    ],
)
def test_impossible_decoders_are_refused(changes):
    values = {**to_dict(preset("tiny").decoder), "head_width": 16, **changes}
    with pytest.raises(InputError):
        from_dict(DecoderConfig, values)


def test_heads_must_divide_the_width():
    with pytest.raises(InputError, match="width=30"):
        CaptionerConfig(vocab_size=9, token_width=8, pooled_width=8, width=30, num_heads=4)
    with pytest.raises(InputError, match="softmax, sigmoid"):
        BackboneConfig(model_cfg={}, preprocess_cfg={}, loss="cubic")


@dataclass(frozen=True)
class Settings:
    """One field of every kind that a command line can meet."""

    steps: int = 10
    rate: float = 0.5
    name: str = "mini"
    fast: bool = False
    widths: tuple[int, ...] = (1, 2)


def test_override_casts_to_the_type_of_the_field():
    changed = override(Settings(), {"steps": "20", "rate": "1e-3", "name": "7", "fast": "True"})
    assert changed == Settings(steps=20, rate=1e-3, name="7", fast=True)
    assert isinstance(changed.rate, float)
    assert override(Settings(), {}) == Settings()


@pytest.mark.parametrize(
    ("key", "text", "told"),
    [
        ("step", "20", "steps"),
        ("steps", "2.5", "not int"),
        ("steps", "", "not int"),
        ("rate", "fast", "not float"),
        ("fast", "1", "not bool"),
        ("widths", "3", "command line"),
    ],
)
def test_override_refuses(key, text, told):
    with pytest.raises(InputError, match=told):
        override(Settings(), {key: text})


def test_override_checks_the_result():
    with pytest.raises(InputError, match="grid, pixel"):
        override(preset("tiny").decoder, {"space": "latent"})
