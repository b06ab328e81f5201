"""A precision gives float32's vectors up to its gate; "auto" is measured once and remembered."""

import copy
import json
import logging
import pickle
from importlib.util import find_spec

import pytest
import torch

from mmfm.config import BackboneConfig
from mmfm.encoders import int8, precision, trials
from mmfm.encoders.backbone import Backbone
from mmfm.encoders.copies import tower_tensors
from mmfm.encoders.precision import CLEARLY, GATES, chosen, encoder
from mmfm.encoders.samples import FEWEST, MOST, enough
from mmfm.errors import InputError
from mmfm.presets import preset

VISION = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
KINDS = {
    "lean": {"vision_cfg": VISION, "text_cfg": TEXT},
    "other": {  # neither tower is one of lean.py
        "custom_text": True,
        "vision_cfg": {"image_size": 32, "timm_model_name": "convnext_atto", "timm_pool": ""},
        "text_cfg": {**TEXT, "embed_cls": True},
    },
}
TEXTS = ["a red circle", "tree", "a very long text " * 10, "naïve ☃", "", "a", "b", "a tree"]
NAMES = ["fp32", "bf16", *([] if int8.why_not() else ["int8"])]
needs_int8 = pytest.mark.skipif("int8" not in NAMES, reason=str(int8.why_not()))


def build(kind="lean"):
    preprocess = {**preset("tiny").backbone.preprocess_cfg, "size": [32, 32]}
    torch.manual_seed(0)
    cfg = {"embed_dim": 24, **KINDS[kind]}
    return Backbone.from_config(BackboneConfig(model_cfg=cfg, preprocess_cfg=preprocess)).eval()


@pytest.fixture(scope="module", params=KINDS)
def any_backbone(request):
    return build(request.param)


@pytest.fixture(scope="module")
def first():
    return build()


@pytest.fixture
def backbone(first):
    """The same weights at every test; nothing is known of them yet."""
    return copy.deepcopy(first)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMFM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def inputs_of(backbone, tower):
    if tower == "text":
        return backbone.tokenize(TEXTS)
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def key_of(backbone, tower):
    return trials.key_of(tower_tensors(backbone.towers, tower), torch.device("cpu"))


@pytest.mark.parametrize("tower", precision.TOWERS)
@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_float32s_up_to_the_gate(any_backbone, tower, name):
    before = any_backbone.hash()
    inputs = inputs_of(any_backbone, tower)
    with torch.inference_mode():
        encode = {"image": any_backbone.encode_images, "text": any_backbone.encode_texts}[tower]
        wanted = encode(inputs).pooled
    ours = encoder(any_backbone, name, tower, inputs)(inputs)
    assert ours.dtype == torch.float32 and ours.shape == wanted.shape
    assert torch.allclose(ours.norm(dim=1), torch.ones(len(ours)), atol=1e-5)
    assert (ours * wanted).sum(dim=1).min() >= GATES.get(name, 1 - 1e-6)
    assert any_backbone.hash() == before


@needs_int8
@pytest.mark.parametrize("tower", precision.TOWERS)
def test_an_int8_vector_does_not_depend_on_its_batch_mates(any_backbone, tower):
    encode = encoder(any_backbone, "int8", tower)
    inputs = inputs_of(any_backbone, tower)
    wild = inputs.clone()
    wild[1:] = wild[1:].flip(0) if tower == "text" else 100 * wild[1:]
    together, among, alone = encode(inputs)[:1], encode(wild)[:1], encode(inputs[:1])
    exact = encoder(any_backbone, "fp32", tower)(inputs[:1])
    lost = (together - exact).abs().max()  # what int8 itself costs
    assert lost > 0
    for other in (among, alone):
        assert (other - together).abs().max() <= max(0.2 * lost, 1e-5)


@needs_int8
def test_int8_shares_what_it_does_not_change():
    other = build("other")
    made = precision.with_tower(other.towers, "text", precision._as_it_is, int8.swap_linears)
    own = {name: value.data_ptr() for name, value in other.towers.named_parameters()}
    assert made.visual is other.towers.visual
    assert {name: p.data_ptr() for name, p in made.named_parameters()} == own
    assert any(isinstance(module, int8.Int8Linear) for module in made.text.modules())
    assert not any(isinstance(module, int8.Int8Linear) for module in other.towers.modules())


@pytest.mark.filterwarnings("ignore:precision")  # these weights are of no model
def test_an_encoder_is_made_once_and_again_when_a_weight_changes(backbone):
    ids = inputs_of(backbone, "text")
    for name in NAMES:
        before = encoder(backbone, name, "text")
        assert encoder(backbone, name, "text") is before
        old = before(ids)
        with torch.no_grad():
            backbone.towers.transformer.resblocks[0].mlp.c_fc.weight.mul_(-1)
        new = encoder(backbone, name, "text")(ids)
        assert (new * old).sum(dim=1).min() < 0.98
        with torch.inference_mode():
            assert (new * backbone.encode_texts(ids).pooled).sum(dim=1).min() > 0.99


@pytest.mark.parametrize("tower", precision.TOWERS)
def test_auto_is_one_of_those_that_pass_and_never_changes_its_mind(backbone, tower, caplog):
    with caplog.at_level(logging.INFO, logger="mmfm"):
        choice = encoder(backbone, "auto", tower, inputs_of(backbone, tower))
        assert encoder(backbone, "auto", tower) is choice
    assert len(caplog.records) == 1
    assert f"{tower}s: precision {choice.name}" in caplog.text
    assert chosen(backbone) == {tower: choice.name}
    assert choice is encoder(backbone, choice.name, tower)
    again = copy.deepcopy(backbone)
    assert chosen(again) == {}
    assert encoder(again, "auto", tower).name == choice.name


@needs_int8
@pytest.mark.parametrize(
    ("cosine", "speedup", "choice"),
    [
        (1.0, 3.0, "int8"),
        (GATES["int8"], CLEARLY, "int8"),
        (1.0, CLEARLY - 0.01, "fp32"),
        (GATES["int8"] - 1e-4, 9.0, "fp32"),
        (float("nan"), 9.0, "fp32"),
    ],
)
def test_what_was_measured_before_decides(backbone, cosine, speedup, choice):
    told = {name: trials.Trial(0.5, 9.0) for name in GATES} | {
        "int8": trials.Trial(cosine, speedup)
    }
    trials.remember(key_of(backbone, "text"), told)
    assert encoder(backbone, "auto", "text").name == choice


def damaged(text):
    return text[: len(text) // 2]


def of_another(text):
    return json.dumps({**json.loads(text), "key": "another"})


def of_other_types(text):
    return json.dumps({**json.loads(text), "trials": {"int8": {"cosine": "1", "speedup": [9]}}})


def of_other_fields(text):
    return json.dumps({**json.loads(text), "trials": {"int8": {"faster": 9.0}}})


def empty(text):
    return ""


@needs_int8
@pytest.mark.parametrize("spoil", [damaged, of_another, of_other_types, of_other_fields, empty])
def test_a_damaged_or_foreign_file_is_ignored_and_written_anew(backbone, cache, spoil):
    key = key_of(backbone, "text")
    trials.remember(key, {"int8": trials.Trial(1.0, 9.0)})
    (file,) = (cache / "precision").iterdir()
    file.write_text(spoil(file.read_text()))
    assert trials.recall(key) == {}
    encoder(backbone, "auto", "text")
    assert trials.recall(key)["int8"].speedup != 9.0


@needs_int8
def test_a_cache_that_cannot_be_written_is_no_obstacle(backbone, cache):
    cache.write_text("a file where a folder was wanted")
    assert encoder(backbone, "auto", "text").name in NAMES


def test_a_trained_weight_another_tower_and_other_threads_have_other_keys(backbone):
    keys = {key_of(backbone, "image"), key_of(backbone, "text")}
    with torch.no_grad():
        for tensor in tower_tensors(backbone.towers, "text").values():
            tensor.add_(1e-3)
    keys.add(key_of(backbone, "text"))
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    keys.add(key_of(backbone, "text"))
    torch.set_num_threads(threads)
    assert len(keys) == 4


@needs_int8
def test_a_precision_asked_for_by_name_that_loses_too_much_is_used_with_a_warning(backbone):
    block = backbone.towers.transformer.resblocks[0]
    mlp, norm = block.mlp, block.ln_2
    with torch.no_grad():  # weights that meet no input take all levels from those that do
        mlp.c_fc.weight[:, 0] = 1e4
        norm.weight[0] = norm.bias[0] = 0
    with pytest.warns(UserWarning, match=r"int8.*text vectors.*0\.\d+, the gate 0\.999"):
        assert encoder(backbone, "int8", "text").name == "int8"
    assert encoder(backbone, "auto", "text").name != "int8"


@needs_int8
def test_a_precision_that_passes_is_used_without_a_warning(backbone, recwarn):
    for tower in precision.TOWERS:
        encoder(backbone, "int8", tower)
    assert not [w for w in recwarn if "int8" in str(w.message)]


def test_what_cannot_be_had_is_refused_in_one_sentence(backbone, monkeypatch):
    monkeypatch.setattr(int8, "why_not", lambda: "no operator")
    with pytest.raises(InputError, match="'int8' is not available here: no operator; use") as told:
        encoder(backbone, "int8", "image")
    assert "\n" not in str(told.value)
    assert encoder(backbone, "auto", "image").name != "int8"


@pytest.mark.parametrize(("name", "tower"), [("fp64", "image"), ("int8", "sound")])
def test_an_unknown_name_is_refused(backbone, name, tower):
    with pytest.raises(InputError, match="auto, fp32, bf16, int8, onnx of image or text"):
        encoder(backbone, name, tower)


def test_copies_and_pickles_of_a_backbone_begin_without_encoders(backbone):
    encoder(backbone, "fp32", "text")
    kept = backbone.__dict__["_precisions"]
    assert len(kept) == 1
    assert pickle.loads(pickle.dumps(kept)) == copy.deepcopy(kept) == {}


def test_few_inputs_are_joined_by_those_of_the_gallery(backbone):
    given = inputs_of(backbone, "image")
    assert torch.equal(enough(given, backbone, "image"), given)
    assert len(enough(given.repeat(9, 1, 1, 1), backbone, "image")) == MOST
    for tower in precision.TOWERS:
        few = inputs_of(backbone, tower)[:3]
        assert torch.equal(enough(few, backbone, tower)[:3], few)
        assert len(enough(few, backbone, tower)) >= FEWEST
        assert enough(None, backbone, tower).shape[1:] == few.shape[1:]


def test_what_was_chosen_is_told_once_a_machine(backbone, caplog):
    with caplog.at_level(logging.INFO, logger="mmfm"):
        encoder(backbone, "auto", "text")
        encoder(copy.deepcopy(backbone), "auto", "text")
    assert len(caplog.records) == (0 if NAMES == ["fp32", "bf16"] else 1)


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("onnxruntime"), reason="no ONNX Runtime")
def test_onnx_is_exported_once_and_serves_both_towers(backbone, cache):
    for tower in precision.TOWERS:
        inputs = inputs_of(backbone, tower)
        wanted = encoder(backbone, "fp32", tower)(inputs)
        ours = encoder(backbone, "onnx", tower, inputs)(inputs)
        assert (ours * wanted).sum(dim=1).min() >= GATES["onnx"]
    (folder,) = (cache / "onnx").iterdir()
    assert folder.name == backbone.hash()
    assert "onnx" in trials.recall(key_of(backbone, "image"))
