"""Words through numpy alone: the vectors and the hash of the model itself, without torch."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mmfm
from mmfm.config import BackboneConfig
from mmfm.encoders.backbone import Backbone
from mmfm.encoders.light import LightTexts
from mmfm.encoders.light_tower import Unsupported
from mmfm.errors import ModelError, TextError
from mmfm.presets import preset

MINI = Path(mmfm.__file__).parent / "weights" / "mini"
TEXTS = ["a red circle", "tree", "", "naïve ☃ & more", "one <end_of_text> two", "long " * 90]
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
KINDS = {
    "causal": {"text_cfg": TEXT},
    "quick gelu": {"quick_gelu": True, "text_cfg": TEXT},
    "its own part": {"custom_text": True, "text_cfg": TEXT},
    "bidirectional": {"custom_text": True, "text_cfg": {**TEXT, "no_causal_mask": True}},
    "one layer, wide": {"text_cfg": {**TEXT, "layers": 1, "mlp_ratio": 2.5, "heads": 4}},
    "with a bias": {"init_logit_bias": -10, "custom_text": True, "text_cfg": TEXT},
}
OTHERS = {  # setting -> value that asks for another computation
    "pool_type": "last", "embed_cls": True, "proj_bias": True, "proj_type": "none",
    "ls_init_value": 0.1, "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"},
    "hf_tokenizer_name": "timm/x", "hf_model_name": "x", "tokenizer_kwargs": {"clean": "lower"},
    "qk_norm": True, "scale_fc": True, "block_type": "custom", "vocab_size": 32000,
}  # fmt: skip


def configured(**told):
    pixels = {**preset("tiny").backbone.preprocess_cfg, "size": [32, 32]}
    cfg = {"embed_dim": 24, "vision_cfg": preset("tiny").backbone.model_cfg["vision_cfg"], **told}
    return BackboneConfig(model_cfg=cfg, preprocess_cfg=pixels)


def kept(backbone, folder, dtype=torch.float32):
    """A backbone as a folder that open_clip's `local-dir:` reads."""
    folder.mkdir()
    backbone.save(folder, dtype)
    return folder


@torch.inference_mode()
def spoken(backbone, texts):
    """The vectors that open_clip's own modules give, padded and one at a time."""
    return np.concatenate(
        [backbone.encode_texts(backbone.tokenize([text])).pooled.numpy() for text in texts]
    )


def quietly(model, texts, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of them are cut
        return model.embed_texts(texts, **how)


@pytest.mark.parametrize("name", ["mini", "tiny"])
def test_a_bundle_speaks_as_the_model_does(name, tiny_bundle):
    folder = MINI if name == "mini" else tiny_bundle
    light, model = LightTexts(folder), mmfm.load(folder, device="cpu")
    assert (light.name, light.backbone_hash) == (model.name, model.backbone_hash)
    vectors = quietly(light, TEXTS)
    assert vectors.dtype == np.float32 and vectors.shape == (len(TEXTS), model.embed_dim)
    # the light way is float32; a model may choose another precision on this machine
    exact = quietly(model, TEXTS, precision="fp32")
    np.testing.assert_allclose(vectors, exact, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_any_text_has_the_models_vector(tiny_bundle, tiny_model, texts):
    light = LightTexts(tiny_bundle)
    vectors = quietly(light, texts)
    np.testing.assert_allclose(vectors, quietly(tiny_model, texts), atol=1e-6)
    for text, vector in zip(texts, vectors):  # no text depends on its mates
        np.testing.assert_array_equal(quietly(light, text)[0], vector)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_clip_tower_speaks_as_in_torch(kind, tmp_path):
    torch.manual_seed(3)
    backbone = Backbone.from_config(configured(**KINDS[kind])).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))  # far from what is easy
    light = LightTexts(kept(backbone, tmp_path / "model"))
    np.testing.assert_allclose(quietly(light, TEXTS), spoken(backbone, TEXTS), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["causal", "bidirectional"])
def test_a_folder_of_open_clip_has_the_hash_of_the_loaded_model(kind, dtype, tmp_path):
    torch.manual_seed(3)
    folder = kept(Backbone.from_config(configured(**KINDS[kind])), tmp_path / "model", dtype)
    model, light = mmfm.load(f"local-dir:{folder}", device="cpu"), LightTexts(folder)
    assert light.backbone_hash == model.backbone_hash
    assert light.name == model.name
    np.testing.assert_allclose(quietly(light, TEXTS), quietly(model, TEXTS), atol=1e-5)


def test_settings_left_out_of_a_folder_are_open_clips_own(tmp_path):
    folder = kept(Backbone.from_config(configured(**KINDS["causal"])), tmp_path / "model")
    told = json.loads((folder / "open_clip_config.json").read_text())
    del told["preprocess_cfg"]
    (folder / "open_clip_config.json").write_text(json.dumps(told))
    model = mmfm.load(f"local-dir:{folder}", device="cpu")
    assert LightTexts(folder).backbone_hash == model.backbone_hash


@pytest.mark.parametrize("where", ["weights", "config"])
def test_another_number_or_setting_is_another_hash(where, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("mmfm.encoders.hash_memory._YOUNG_NS", -(10**12))  # remember at once
    folder = tmp_path / "model"
    shutil.copytree(tiny_bundle, folder)
    before = LightTexts(folder).backbone_hash
    assert LightTexts(folder).backbone_hash == before
    if where == "weights":
        path = folder / "open_clip_model.safetensors"
        times = os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns
        with open(path, "r+b") as file:
            file.seek(-2, 2)
            last = file.read()
            file.seek(-2, 2)
            file.write(bytes([last[0] ^ 1, last[1]]))
        os.utime(path, ns=times)
    else:
        told = json.loads((folder / "config.json").read_text())
        told["backbone"]["model_cfg"]["quick_gelu"] = True
        (folder / "config.json").write_text(json.dumps(told))
    changed = LightTexts(folder)
    assert changed.backbone_hash == mmfm.load(folder, device="cpu").backbone_hash != before


@pytest.mark.parametrize("setting", OTHERS)
def test_a_tower_that_computes_otherwise_is_refused(setting, tiny_bundle, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_bundle, folder)
    told = json.loads((folder / "config.json").read_text())
    told["backbone"]["model_cfg"]["text_cfg"][setting] = OTHERS[setting]
    (folder / "config.json").write_text(json.dumps(told))
    with pytest.raises(Unsupported):
        LightTexts(folder)


@pytest.mark.parametrize(
    "told", [{"multimodal_cfg": {}}, {"text_cfg": {**TEXT, "layers": 3}}, {"custom_text": True}]
)
def test_weights_that_do_not_fit_are_refused(told, tmp_path):
    folder = kept(Backbone.from_config(configured(**KINDS["causal"])), tmp_path / "model")
    there = json.loads((folder / "open_clip_config.json").read_text())
    there["model_cfg"] |= told
    (folder / "open_clip_config.json").write_text(json.dumps(there))
    with pytest.raises(Unsupported):
        LightTexts(folder)


def test_what_is_cut_is_said(tiny_bundle):
    with pytest.warns(UserWarning, match="cut off"):
        LightTexts(tiny_bundle).embed_texts("far too " * 50)


def test_what_is_not_a_text_is_refused(tiny_bundle):
    light = LightTexts(tiny_bundle)
    for wrong in ([], [3], 7):
        with pytest.raises(TextError):
            light.embed_texts(wrong)


def test_pictures_are_left_to_the_model(tiny_bundle, tiny_model, ellipses):
    vectors = LightTexts(tiny_bundle, load=lambda: tiny_model).embed_images(ellipses)
    np.testing.assert_array_equal(vectors, tiny_model.embed_images(ellipses))
    with pytest.raises(ModelError, match=r"mmfm\.load"):
        LightTexts(tiny_bundle).embed_images(ellipses)


@pytest.mark.parametrize("name", ["config.json", "open_clip_model.safetensors"])
def test_a_damaged_folder_is_told(name, tiny_bundle, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_bundle, folder)
    (folder / name).write_text("{")
    with pytest.raises(
        ModelError, match=name if name.endswith("tensors") else "cannot be read|not"
    ):
        LightTexts(folder)


def test_torch_is_not_imported():
    code = (
        "import sys, pathlib; from mmfm.encoders.light import LightTexts;"
        "light = LightTexts(pathlib.Path(sys.argv[1])); light.embed_texts('a tree');"
        "light.backbone_hash;"
        "print([m for m in ('torch', 'open_clip', 'PIL', 'ftfy', 'regex') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(MINI)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
