"""From a name to weights: every way in gives the same model, every wrong one a sentence."""

import json
import re
import shutil
import struct

import open_clip
import pytest
import torch

import mmfm
from mmfm.cli import main
from mmfm.encoders.architectures import CONFIG_FILE, PICKLED_FILE, WEIGHTS_FILE, NoTokenizer
from mmfm.encoders.published import from_open_clip
from mmfm.errors import ModelError

CFG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
WIDER = {**CFG, "vision_cfg": {**CFG["vision_cfg"], "width": 48}}
GREY = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "squash"}


@pytest.fixture(scope="module")
def towers():
    """open_clip's own model, random weights; do not change it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(open_clip.factory._MODEL_CONFIGS, "Small", CFG)
        torch.manual_seed(0)
        return open_clip.create_model("Small").eval()


@pytest.fixture(autouse=True)
def listed(monkeypatch):
    """open_clip lists two small architectures, one of them with published weights."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Small", CFG)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Wider", WIDER)
    entry = {"hf_hub": "org/small/", **GREY}
    pickled = {"hf_hub": "org/pickled/old.pt", "quick_gelu": True, **GREY}
    tags = {"web": entry, "old": pickled}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Small", tags)


@pytest.fixture
def file(towers, tmp_path):
    from safetensors.torch import save_file

    save_file(towers.state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """hub(repository, name, path): put a file into the cache of the hub, as its client keeps it."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))

    def put(repository, name, path):
        root = cache / f"models--{repository.replace('/', '--')}"
        (root / "refs").mkdir(parents=True, exist_ok=True)
        (root / "refs" / "main").write_text("0" * 40)
        snapshot = root / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, snapshot / name)

    return put


@pytest.fixture
def folder(file, tmp_path):
    """What open_clip's `local-dir:` reads."""
    place = tmp_path / "local"
    place.mkdir()
    shutil.copy(file, place / WEIGHTS_FILE)
    (place / CONFIG_FILE).write_text(json.dumps({"model_cfg": CFG, "preprocess_cfg": GREY}))
    return place


def same(backbone, towers):
    state, wanted = backbone.towers.state_dict(), towers.state_dict()
    return state.keys() == wanted.keys() and all(torch.equal(state[n], wanted[n]) for n in wanted)


def refused(name, **options):
    """The one sentence with which a name is refused."""
    with pytest.raises(ModelError) as caught:
        from_open_clip(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------- every way in


def test_a_file_is_named_in_the_name_or_beside_it(towers, file):
    for backbone in (from_open_clip(f"Small/{file}"), from_open_clip("Small", checkpoint=file)):
        assert same(backbone, towers)


def test_a_file_with_a_tag_prepares_pictures_as_for_the_tag(towers, file):
    backbone = from_open_clip("Small/web", checkpoint=file)
    assert same(backbone, towers)
    wanted = open_clip.create_model("Small", force_preprocess_cfg=GREY).visual.preprocess_cfg
    told = backbone.config.preprocess_cfg
    assert {key: told[key] for key in GREY} == {key: wanted[key] for key in GREY} == GREY
    assert told["size"] == [32, 32]


def test_pictures_are_prepared_as_all_published_weights_want_it_or_else_told(file, monkeypatch):
    told = from_open_clip("Small", checkpoint=file).config.preprocess_cfg
    assert {key: told[key] for key in GREY} == GREY
    other = {"hf_hub": "org/other/", **GREY, "resize_mode": "longest"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED["Small"], "other", other)
    with pytest.warns(UserWarning, match="2 ways"):
        told = from_open_clip("Small", checkpoint=file).config.preprocess_cfg
    assert told["resize_mode"] == "shortest"


def test_published_weights_come_from_the_cache_of_the_hub(towers, file, hub):
    hub("org/small", WEIGHTS_FILE, file)
    backbone = from_open_clip("Small/web")
    assert same(backbone, towers)
    assert backbone.config.preprocess_cfg["resize_mode"] == "squash"


def test_a_repository_of_the_hub_and_a_folder_are_read_alike(towers, folder, hub):
    for file in folder.iterdir():
        hub("org/any", file.name, file)
    one, two = from_open_clip("hf-hub:org/any"), from_open_clip(f"local-dir:{folder}")
    assert same(one, towers) and same(two, towers)
    assert one.config == two.config and one.hash() == two.hash()


def test_a_folder_takes_another_checkpoint(folder, towers, tmp_path):
    other = {name: value + 1 for name, value in towers.state_dict().items()}
    torch.save(other, tmp_path / "other.pt")
    backbone = from_open_clip(
        f"local-dir:{folder}", checkpoint=tmp_path / "other.pt", allow_pickle=True
    )
    assert torch.equal(backbone.towers.visual.proj, towers.visual.proj + 1)


def test_a_folder_with_positions_of_another_size_is_resampled_as_open_clip_does(folder):
    cfg = {**CFG, "vision_cfg": {**CFG["vision_cfg"], "image_size": 48}}
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": cfg}))
    wanted = open_clip.create_model(f"local-dir:{folder}")
    assert same(from_open_clip(f"local-dir:{folder}"), wanted)


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".pth"])
def test_a_pickle_is_read_only_when_that_is_allowed(towers, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    torch.save(towers.state_dict(), path)
    assert "allow_pickle=True" in refused(f"Small/{path}")
    assert same(from_open_clip(f"Small/{path}", allow_pickle=True), towers)


def test_checkpoints_of_a_training_are_understood(towers, tmp_path):
    state = {f"module._orig_mod.{name}": value for name, value in towers.state_dict().items()}
    optimizer = torch.optim.AdamW(towers.parameters())
    whole = {"epoch": 3, "name": "run", "state_dict": state, "optimizer": optimizer.state_dict()}
    for old in (False, True):  # also the format before torch 1.6, which cannot be mapped
        torch.save(whole, tmp_path / "epoch_3.pt", _use_new_zipfile_serialization=not old)
        backbone = from_open_clip("Small", checkpoint=tmp_path / "epoch_3.pt", allow_pickle=True)
        assert same(backbone, towers)


def test_weights_of_the_older_layout_fit_a_custom_text_tower(towers, file, monkeypatch):
    custom = {**CFG, "custom_text": True, "init_logit_bias": -10}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Custom", custom)
    backbone = from_open_clip("Custom", checkpoint=file)
    wanted = open_clip.create_model("Custom", pretrained=str(file))
    assert same(backbone, wanted)
    assert backbone.config.loss == "sigmoid" and backbone.logit_bias == 0


def test_random_weights_have_to_be_asked_for_and_are_told():
    with pytest.warns(UserWarning, match="random weights"):
        backbone = from_open_clip("Small/random")
    assert backbone.config.preprocess_cfg["size"] == [32, 32]
    assert "Small/TAG" in refused("Small")


def test_another_activation_function_is_told(file, hub):
    hub("org/pickled", "old.safetensors", file)
    with pytest.warns(UserWarning, match="Small-quickgelu/old"):
        from_open_clip("Small/old")


# ---------------------------------------------------------------------- every wrong one


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("ViT-B-32/nonsense", "laion2b_s34b_b79k"),  # the tags there are
        ("ViT-B-32", "ViT-B-32/TAG"),
        ("ViT-B-23/openai", "ViT-B-32"),  # did you mean
        ("No-Such/tag", "list_models"),
        ("Wider", "a weights file"),  # none is published
        ("local-dir:no/such/folder", "no/such/folder"),
        ("local-dir:", CONFIG_FILE),
        ("hf-hub:", "ORGANISATION/NAME"),
        ("hf-hub:a/b/c", "ORGANISATION/NAME"),
        ("Small/no/such.safetensors", "no/such.safetensors"),
    ],
)
def test_an_unknown_name_is_refused(name, told):
    assert re.search(told, refused(name))


@pytest.mark.parametrize("name", ["Small/web", "hf-hub:org/none"])
def test_without_a_network_it_is_told_what_to_set(name, hub):
    sentence = refused(name)
    for word in ("HF_HUB_OFFLINE", "HF_HOME", "local-dir:"):
        assert word in sentence


def test_published_pickles_need_the_switch(towers, hub, tmp_path):
    torch.save(towers.state_dict(), tmp_path / "old.pt")
    hub("org/pickled", "old.pt", tmp_path / "old.pt")
    with pytest.warns(UserWarning, match="activation"):
        assert "allow_pickle" in refused("Small/old")
        assert same(from_open_clip("Small/old", allow_pickle=True), towers)


def test_weights_of_another_architecture_are_refused(file):
    sentence = refused(f"Wider/{file}")
    assert "another model" in sentence and "visual." in sentence and "(48," in sentence


def test_weights_with_names_too_few_or_too_many_are_refused(towers, tmp_path):
    from safetensors.torch import save_file

    state = towers.state_dict()
    scale = state.pop("logit_scale")
    save_file(state, tmp_path / "few.safetensors")
    assert "lacks logit_scale" in refused(f"Small/{tmp_path / 'few.safetensors'}")
    save_file({**state, "logit_scale": scale, "more": scale + 0}, tmp_path / "many.safetensors")
    assert "besides more" in refused(f"Small/{tmp_path / 'many.safetensors'}")
    torch.save(state, tmp_path / "few.pt")
    told = refused(f"Small/{tmp_path / 'few.pt'}", allow_pickle=True)
    assert "lacks logit_scale" in told


def test_whole_numbers_are_no_weights(towers, tmp_path):
    from safetensors.torch import save_file

    state = {name: value.to(torch.int8) for name, value in towers.state_dict().items()}
    save_file(state, tmp_path / "int8.safetensors")
    assert "whole" in refused(f"Small/{tmp_path / 'int8.safetensors'}")


def cut(data):
    return data[: len(data) // 2]


def longer(data):
    return data + b"more"


def huge_header(data):
    return struct.pack("<Q", 2**40) + data[8:]


def no_header(data):
    return b"PK\x03\x04" + data


def empty(data):
    return b""


@pytest.mark.parametrize("damage", [cut, longer, huge_header, no_header, empty])
def test_a_damaged_file_is_refused_before_memory_is_taken(file, damage, monkeypatch):
    from mmfm.encoders import architectures

    build = architectures.build

    def only_shapes(model_cfg, preprocess_cfg, where="cpu"):
        assert where == "meta"
        return build(model_cfg, preprocess_cfg, where)

    monkeypatch.setattr(architectures, "build", only_shapes)
    file.write_bytes(damage(file.read_bytes()))
    sentence = refused(f"Small/{file}")
    assert str(file) in sentence and "again" in sentence


class Program:
    """What a pickle must never run."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('run')",))


@pytest.mark.parametrize("content", [Program(), [1, 2], {"a": 1}, {}, {"state_dict": {"a": "b"}}])
def test_a_pickle_of_anything_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "file.pt")
    refused(f"Small/{tmp_path / 'file.pt'}", allow_pickle=True)


def test_a_damaged_pickle_is_refused(tmp_path):
    for content in (b"", b"not a pickle", b"PK\x03\x04broken"):
        (tmp_path / "file.pt").write_bytes(content)
        assert "file.pt" in refused(f"Small/{tmp_path / 'file.pt'}", allow_pickle=True)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"model_cfg": {}}', '{"model_cfg": {"embed_dim": 4, "vision_cfg": 1}}',
     '{"model_cfg": {"embed_dim": 24, "vision_cfg": {"patch": 1}, "text_cfg": {}}}'],
)  # fmt: skip
def test_a_damaged_config_is_refused(folder, content):
    (folder / CONFIG_FILE).write_text(content)
    assert "config" in refused(f"local-dir:{folder}") or CONFIG_FILE in content


def test_a_folder_without_weights_is_refused(folder):
    (folder / WEIGHTS_FILE).unlink()
    assert WEIGHTS_FILE in refused(f"local-dir:{folder}")
    (folder / PICKLED_FILE).write_bytes(b"")
    assert "allow_pickle" in refused(f"local-dir:{folder}")


def test_two_files_are_one_too_many(file):
    assert "give one" in refused(f"Small/{file}", checkpoint=file)
    with pytest.raises(ModelError, match="checkpoint"):
        mmfm.load("mini", checkpoint=file)


# ---------------------------------------------------------------------- extras


@pytest.mark.filterwarnings("ignore:.*random weights")
def test_a_text_tower_of_hugging_face_says_what_it_needs(monkeypatch):
    assert "HF_HOME" in refused("roberta-ViT-B-32/random")
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "transformers" else find(name)
    )
    assert "pip install transformers" in refused("roberta-ViT-B-32/random")


def test_without_its_tokenizer_a_model_still_sees(monkeypatch, ellipses):
    text = {**CFG["text_cfg"], "hf_tokenizer_name": "org/words"}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Foreign", {**CFG, "text_cfg": text})
    with pytest.warns(UserWarning, match="random"):
        model = mmfm.load("open_clip:Foreign/random", device="cpu")
    assert isinstance(model.backbone.tokenizer, NoTokenizer)
    assert model.embed_images(ellipses).shape == (5, 24)
    with pytest.raises(ModelError, match=r"org/words.*HF_HOME"):
        model.embed_texts(["a tree"])


def test_everything_published_is_listed():
    names = mmfm.list_models(published=True)
    assert names[: len(mmfm.list_models())] == mmfm.list_models()
    assert "open_clip:Small/web" in names and "open_clip:ViT-B-32/openai" in names


def test_the_command_takes_the_same_names(file, towers, capsys):
    pickled = file.with_suffix(".pt")
    torch.save(towers.state_dict(), pickled)
    assert main(["info", "--model", f"open_clip:Small/{pickled}"]) == 2
    assert "--allow-pickle" in capsys.readouterr().err
    assert main(["info", "--allow-pickle", "--model", f"open_clip:Small/{pickled}"]) == 0
    capsys.readouterr()
    assert main(["info", "--json", "--model", f"open_clip:Small/{file}"]) == 0
    assert json.loads(capsys.readouterr().out)["embed_dim"] == 24
    assert main(["info", "--model", "open_clip:Small/web"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("mmfm: error: ") and "HF_HOME" in line
