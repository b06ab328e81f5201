"""Low-rank changes: an adapter beside the base, or folded into a model."""

import pytest
import torch

import mmfm
from tests.finetuning.conftest import QUICK, SHAPES

pytest.importorskip("peft")
lora = pytest.importorskip("mmfm.lora")


def test_an_adapter_changes_the_base_and_leaves_it(grid_bundle, folder, tmp_path):
    report = mmfm.finetune(
        str(grid_bundle), images=folder, output=tmp_path / "new", lora=True, **QUICK
    )
    assert (tmp_path / "new" / "towers").is_dir() and report.page.exists()
    model = mmfm.load(grid_bundle, device="cpu")
    before = model.embed_texts(["a red ellipse"])
    lora.load_set(model, tmp_path / "new")
    assert abs(model.embed_texts(["a red ellipse"]) - before).max() > 1e-5
    lora.switch_set(model, None)
    assert (model.embed_texts(["a red ellipse"]) == before).all()


def test_towers_by_low_rank_make_a_plain_model(grid_bundle, folder, tmp_path):
    mmfm.finetune(str(grid_bundle), images=folder, output=tmp_path / "new", train="lora",
                  heads=("contrastive",), **QUICK)  # fmt: skip
    tuned, base = (mmfm.load(one, device="cpu") for one in (tmp_path / "new", grid_bundle))
    names = dict(tuned.backbone.named_parameters()).keys()
    assert names == dict(base.backbone.named_parameters()).keys()
    assert not torch.equal(
        tuned.backbone.towers.transformer.resblocks[0].attn.in_proj_weight,
        base.backbone.towers.transformer.resblocks[0].attn.in_proj_weight.half().float(),
    )


def test_words_of_classes_alone(tiny_bundle, folder, tmp_path):
    for number in range(24):
        (folder / f"{number:02d}.txt").write_text(SHAPES[number // 6 % 2])
    report = mmfm.finetune(str(tiny_bundle), images=folder, output=tmp_path / "new",
                           heads=("prompt",), holdout=0.25)  # fmt: skip
    assert (tmp_path / "new" / "head.safetensors").exists()
    assert "named right" in report.page.read_text()
