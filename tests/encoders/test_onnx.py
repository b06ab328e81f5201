"""The exported graphs give the model's vectors in ONNX Runtime, at any batch size and length."""

import json
import shutil

import numpy as np
import pytest
import torch

from mmfm.config import BackboneConfig
from mmfm.encoders import onnx
from mmfm.encoders.backbone import Backbone
from mmfm.encoders.onnx import FACTS_FILE, IMAGE_FILE, TEXT_FILE, OnnxEncoder, export
from mmfm.errors import ModelError, OutputError

VIT = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
KINDS = {
    "CLIP": {},
    "eos, custom": {"custom_text": True, "text_cfg": {**TEXT, "pool_type": "eos", "eos_id": 49407}},
    "SigLIP": {
        "custom_text": True, "init_logit_bias": -10,
        "text_cfg": {**TEXT, "pool_type": "last", "no_causal_mask": True, "proj_bias": True},
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit3", "timm_pool": "map",
                       "timm_proj": "linear"},
    },
    "CoCa": {
        "custom_text": True, "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_heads": 2,
                       "output_tokens": True},
        "multimodal_cfg": {"context_length": 16, "vocab_size": 300, "width": 32, "heads": 2,
                           "layers": 1},
    },
    "ResNet": {"vision_cfg": {"image_size": 32, "layers": [1] * 4, "width": 16,
                              "patch_size": None}},
}  # fmt: skip
TEXTS = ["a red circle", "tree", "a very long text " * 10, "!", "naïve ☃"]


def build(kind):
    cfg = {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT, **KINDS[kind]}
    torch.manual_seed(0)
    return Backbone.from_config(BackboneConfig(model_cfg=cfg, preprocess_cfg={})).eval()


@pytest.fixture(scope="module")
def backbone():
    return build("CLIP")


@pytest.fixture(scope="module")
def folder(backbone, tmp_path_factory):
    """Exported while it was training, which it is again afterwards."""
    backbone.train()
    path = export(backbone, tmp_path_factory.mktemp("export") / "onnx")
    assert backbone.training
    backbone.eval()
    return path


@torch.inference_mode()
def same(backbone, encoder, tolerance=1e-5):
    size = backbone.config.image_size
    for count in (1, 3):
        pixels = torch.randn(count, 3, size, size)
        wanted = backbone.encode_images(pixels).pooled
        assert torch.allclose(encoder.images(pixels), wanted, atol=tolerance)
    for texts in (TEXTS, TEXTS[:1], TEXTS[1:2], TEXTS[2:3]):
        ids = backbone.tokenize(texts)
        wanted = backbone.towers.encode_text(ids, normalize=True)
        assert torch.allclose(encoder.texts(ids), wanted, atol=tolerance)


def test_the_vectors_are_those_of_the_model(backbone, folder):
    same(backbone, OnnxEncoder(folder))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "CLIP"])
def test_the_vectors_of_other_kinds_of_towers_too(kind, tmp_path):
    backbone = build(kind)
    encoder = OnnxEncoder(export(backbone, tmp_path / "onnx"))
    same(backbone, encoder)
    assert encoder.facts["dynamic_length"] == (kind not in ("SigLIP", "CoCa"))


def test_plain_onnxruntime_is_enough(backbone, folder):
    import onnxruntime

    facts = json.loads((folder / FACTS_FILE).read_text())
    session = onnxruntime.InferenceSession(folder / TEXT_FILE, providers=["CPUExecutionProvider"])
    [told] = session.get_inputs()
    assert (told.name, told.type) == ("ids", "tensor(int64)")
    ids = backbone.tokenize(TEXTS)
    assert ids.shape[1] == facts["context_length"]
    [vectors] = session.run(None, {"ids": ids.numpy()})
    assert vectors.shape == (5, facts["embed_dim"]) and vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    session = onnxruntime.InferenceSession(folder / IMAGE_FILE, providers=["CPUExecutionProvider"])
    [told] = session.get_inputs()
    assert told.name == "pixels" and told.shape[1:] == [3, 32, 32]
    assert facts["backbone_hash"] == backbone.hash()
    assert facts["logit_scale"] == pytest.approx(backbone.logit_scale.item())


def test_a_vector_does_not_depend_on_longer_batch_mates(backbone, folder):
    encoder = OnnxEncoder(folder, threads=1)
    together = encoder.texts(backbone.tokenize(TEXTS))
    for text, vector in zip(TEXTS, together, strict=True):
        [alone] = encoder.texts(backbone.tokenize([text]))
        assert torch.allclose(alone, vector, atol=1e-6)


@pytest.mark.parametrize("name", [IMAGE_FILE, TEXT_FILE, FACTS_FILE])
def test_a_damaged_export_is_refused(folder, tmp_path, name):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / name).write_bytes((folder / name).read_bytes()[:100])
    with pytest.raises(ModelError, match="export the model again") as caught:
        OnnxEncoder(broken)
    assert "\n" not in str(caught.value)
    (broken / name).unlink()
    with pytest.raises(ModelError):
        OnnxEncoder(broken)


def test_wrong_vectors_never_leave_the_check(backbone, folder, tmp_path, monkeypatch):
    """A graph that differs from the model is refused, and what was there before stays."""
    shutil.copytree(folder, tmp_path / "onnx")
    before = {path.name: path.read_bytes() for path in (tmp_path / "onnx").iterdir()}

    def other(backbone, aside):
        for path in folder.iterdir():
            shutil.copy(path, aside)

    monkeypatch.setattr(onnx, "_write", other)
    changed = build("CLIP")
    with torch.no_grad():
        changed.towers.text_projection.mul_(torch.rand(24))
    with pytest.raises(ModelError, match=r"text\.onnx gives other vectors"):
        export(changed, tmp_path / "onnx")
    assert {p.name: p.read_bytes() for p in (tmp_path / "onnx").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]
    export(backbone, tmp_path / "onnx")  # an earlier export may be replaced


def test_a_folder_of_something_else_is_not_replaced(backbone, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="not empty"):
        export(backbone, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_without_the_extra_it_is_told_what_to_install(backbone, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModelError, match=r"pip install 'mmfm\[onnx\]'"):
        export(backbone, tmp_path / "onnx")
