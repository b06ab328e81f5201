"""Saved adapters: as PEFT reads them, one of several on, the base's own bits when none is."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch

import mmfm
from mmfm import lora
from mmfm.errors import InputError, ModelError
from tests.lora.conftest import PARTS, stir
from tests.lora.test_adapter import assert_equal, contrast, learning


def test_a_saved_adapter_loads_equal(model, tmp_path):
    before = contrast(model.backbone).detach()
    lora.add(model.backbone, rank=2)
    stir(model.backbone)
    told = contrast(model.backbone).detach()
    lora.save(model.backbone, tmp_path / "a")
    lora.discard(model.backbone)
    assert torch.equal(contrast(model.backbone), before)
    lora.load(model.backbone, tmp_path / "a")
    assert lora.active(model.backbone) == "default"
    assert (contrast(model.backbone) - told).abs().max() < 1e-5
    lora.save(model.backbone, tmp_path / "again")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_peft_itself_reads_it(model, tmp_path):
    import peft

    lora.add(model.backbone, rank=2)
    stir(model.backbone)
    told = contrast(model.backbone).detach()
    lora.save(model.backbone, tmp_path / "a")
    lora.discard(model.backbone)
    plain = contrast(model.backbone).detach()
    peft.PeftModel.from_pretrained(model.backbone.towers, str(tmp_path / "a"))
    assert (contrast(model.backbone) - told).abs().max() < 1e-6
    assert (plain - told).abs().max() > 1e-3


def test_what_peft_wrote_is_read(model, tmp_path):
    import peft

    config = peft.LoraConfig(r=2, target_modules=["attn", "c_fc", "c_proj"])
    theirs = peft.get_peft_model(model.backbone.towers, config)
    stir(model.backbone)
    told = contrast(model.backbone).detach()
    theirs.save_pretrained(str(tmp_path / "a"))
    theirs.unload()
    lora.load(model.backbone, tmp_path / "a")
    assert (contrast(model.backbone) - told).abs().max() < 1e-5


def test_an_adapter_learns_on_from_a_file(model, tmp_path):
    lora.add(model.captioner, rank=2)
    stir(model.captioner)
    wanted = {k: v.clone() for k, v in model.captioner.state_dict().items()}
    lora.save(model.captioner, tmp_path / "a")
    lora.discard(model.captioner)
    lora.load(model.captioner, tmp_path / "a", trainable=True)
    assert lora.is_open(model.captioner)
    found = model.captioner.state_dict()
    assert all(torch.equal(found[key], value) for key, value in wanted.items())
    own = [name for name, p in model.captioner.named_parameters() if p.requires_grad]
    assert own and all(".lora_" in name for name in own)
    lora.discard(model.captioner)
    assert all(p.requires_grad for p in model.captioner.parameters())


def test_adapters_are_switched_and_the_base_comes_back(model, two_adapters, says):
    base, hashes = says(model), [model.backbone_hash]
    told = []
    for folder, name in zip(two_adapters, "ab"):
        model.load_adapter(folder, name)
        assert model.active_adapter == name
        told.append(says(model))
        hashes.append(model.backbone_hash)
    assert len(set(hashes)) == 3
    assert not np.array_equal(told[1]["captions"], base["captions"])  # of another grid
    for name, wanted, at in (
        ("a", told[0], 1),
        (None, base, 0),
        ("b", told[1], 2),
        (None, base, 0),
    ):
        model.set_adapter(name)
        assert model.active_adapter == name == model.info()["adapter"]
        assert_equal(says(model), wanted)
        assert model.backbone_hash == hashes[at]


def test_all_precisions_notice(model, two_adapters, ellipses):
    """What was laid out for a precision is made anew: towers in bf16, the flow's lean copy."""
    ways = {
        "bf16": lambda: model.embed_images(ellipses, precision="bf16"),
        "words": lambda: model.embed_texts(["a red circle"], precision="bf16"),
        "drawn": lambda: model.generate(
            "a red circle", seed=1, num_steps=2, precision="bf16", output="np"
        ),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that bf16 changes what a random model draws
        base = {name: np.asarray(way()) for name, way in ways.items()}
        model.load_adapter(two_adapters[0])
        changed = {name: np.asarray(way()) for name, way in ways.items()}
        model.set_adapter(None)
        again = {name: np.asarray(way()) for name, way in ways.items()}
    for name in ways:
        assert not np.array_equal(base[name], changed[name]), name
        assert np.array_equal(base[name], again[name]), name


def test_load_takes_an_adapter_and_an_index_tells_them_apart(
    model, tiny_bundle, tmp_path, ellipses
):
    lora.add(model.backbone, rank=2)
    stir(model.backbone)
    folder = model.save_adapter(tmp_path / "a")
    wanted = model.embed_images(ellipses, precision="fp32")
    lora.discard(model.backbone)
    loaded = mmfm.load(tiny_bundle, adapter=folder, device="cpu")
    assert np.abs(loaded.embed_images(ellipses, precision="fp32") - wanted).max() < 1e-5
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, picture in enumerate(ellipses):
        picture.save(pictures / f"{number}.png")
    index = mmfm.Index.build(loaded, pictures)
    assert index.fitting(loaded)
    loaded.set_adapter(None)
    with pytest.raises(InputError, match="index was made with"):
        index.fitting(loaded)


def test_a_bundle_of_a_model_with_an_adapter_has_it(model, two_adapters, tmp_path, says):
    model.load_adapter(two_adapters[0])
    wanted = says(model)
    model.save_pretrained(tmp_path / "bundle")
    assert_equal(says(mmfm.load(tmp_path / "bundle", device="cpu")), wanted)


def test_merging_what_is_on_makes_it_the_base(model, two_adapters):
    model.load_adapter(two_adapters[1])
    told = contrast(model.backbone).detach()
    lora.merge(model.backbone)
    assert model.active_adapter is None
    assert torch.equal(contrast(model.backbone), told)


def test_another_base_is_refused(model, two_adapters):
    with torch.no_grad():
        model.backbone.towers.visual.ln_post.weight.add_(1e-3)
    with pytest.raises(ModelError, match="made for the towers of 'tiny', whose weights are not"):
        model.load_adapter(two_adapters[1])


def test_a_model_without_the_part_is_refused(model, two_adapters):
    model.captioner = None
    with pytest.raises(ModelError, match="changes a captioner, which tiny does not have"):
        model.load_adapter(two_adapters[0])


def test_weights_that_changed_under_an_adapter_are_noticed(model, two_adapters):
    model.load_adapter(two_adapters[1])
    with torch.no_grad():
        model.backbone.towers.visual.transformer.resblocks[0].mlp.c_fc.weight.add_(1)
    with pytest.raises(ModelError, match="was changed while the adapter 'default' was on"):
        model.set_adapter(None)


def test_a_second_adapter_does_not_learn_on_a_loaded_one(model, two_adapters):
    model.load_adapter(two_adapters[1])
    with pytest.raises(InputError, match="is in the weights"):
        lora.add(model.backbone)
    model.set_adapter(None)
    lora.add(model.backbone)
    with pytest.raises(InputError, match="learns an adapter"):
        model.set_adapter("default")


def test_unknown_names_are_refused(model, two_adapters):
    with pytest.raises(InputError, match="no adapter 'b'; loaded are none"):
        model.set_adapter("b")
    model.load_adapter(two_adapters[1], "a")
    with pytest.raises(InputError, match="no adapter 'b'; loaded are 'a'"):
        model.set_adapter("b")


def test_nothing_to_save_is_refused(model, tmp_path):
    with pytest.raises(InputError, match="no adapter to save"):
        model.save_adapter(tmp_path / "a")
    with pytest.raises(InputError, match="no adapter to save"):
        lora.save(model.backbone, tmp_path / "a")


def _broken(folder, part, change):
    config = folder / part / "adapter_config.json"
    told = json.loads(config.read_text())
    told.update(change)
    config.write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda f: (f / "mmfm_adapter.json").unlink(), "mmfm_adapter.json is missing"),
        (lambda f: (f / "mmfm_adapter.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "mmfm_adapter.json").write_text('{"format": 2}'), "update mmfm"),
        (lambda f: (f / "towers/adapter_model.safetensors").unlink(), "is missing"),
        (lambda f: (f / "towers/adapter_model.safetensors").write_bytes(b"no"), "cannot be read"),
        (lambda f: (f / "towers/adapter_config.json").write_text("[]"), "cannot be read"),
        (lambda f: _broken(f, "towers", {"peft_type": "IA3"}), "kind IA3"),
        (lambda f: _broken(f, "towers", {"use_dora": True}), "use_dora=True"),
        (lambda f: _broken(f, "towers", {"r": 3}), "does not fit Backbone"),
        (lambda f: _broken(f, "towers", {"target_modules": ["x"]}), "made for another part"),
    ],
)
def test_damage_is_told_and_leaves_the_model_alone(model, two_adapters, tmp_path, harm, told):
    before, learnt = contrast(model.backbone).detach(), list(learning(model.backbone))
    folder = shutil.copytree(two_adapters[1], tmp_path / "harmed")
    harm(folder)
    with pytest.raises(ModelError, match=told):
        model.load_adapter(folder)
    assert model.active_adapter is None and not lora.is_open(model.backbone)
    assert torch.equal(contrast(model.backbone), before)
    assert list(learning(model.backbone)) == learnt


def test_a_failed_load_leaves_the_adapter_that_was_on(model, two_adapters, tmp_path, says):
    model.load_adapter(two_adapters[0], "a")
    wanted = says(model)
    folder = shutil.copytree(two_adapters[1], tmp_path / "harmed")
    _broken(folder, "towers", {"r": 3})
    with pytest.raises(ModelError, match="does not fit"):
        model.load_adapter(folder, "b")
    assert model.active_adapter == "a"
    assert_equal(says(model), wanted)


def test_the_files_are_small(model, two_adapters, tiny_bundle):
    bytes_of = lambda folder: sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())  # noqa: E731
    assert bytes_of(two_adapters[0]) < 0.2 * bytes_of(tiny_bundle)
    assert sorted(p.name for p in two_adapters[0].iterdir()) == [
        "captioner", "decoder", "mmfm_adapter.json", "towers",
    ]  # fmt: skip
    facts = json.loads((two_adapters[0] / "mmfm_adapter.json").read_text())
    assert facts["base"] == "tiny" and set(facts["hashes"]) == {"towers", "captioner", "decoder"}
    assert len(PARTS) == len(facts["hashes"])
