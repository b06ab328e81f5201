"""`mmfm.finetune` from a folder to a model with its report."""

import json

import mmfm
from tests.finetuning.conftest import QUICK


def test_every_skill_learns_and_the_report_tells(grid_bundle, folder, known, tmp_path):
    lines = []
    report = mmfm.finetune(
        str(grid_bundle), images=folder, output=tmp_path / "new", original=known, train="all",
        say=lines.append, **QUICK,
    )  # fmt: skip
    assert 5e-324 * 1.0 > 0  # the processor's state is the caller's again
    tuned = mmfm.load(tmp_path / "new", device="cpu")
    assert tuned.backbone_hash != mmfm.load(grid_bundle, device="cpu").backbone_hash
    assert len(tuned.generate("a red ellipse", seed=0)) == 1
    assert tuned.metrics["finetuned"]["base"] == "tiny"
    told = json.loads((tmp_path / "new" / "report.json").read_text())
    assert set(told["figures"]) == {"held_out", "original"}
    assert set(told["figures"]["held_out"]["after"]) == {"retrieval", "captions", "generation"}
    assert set(told["told"]["stages"]) >= {"towers", "captions", "pixels", "flow"}
    assert told["told"]["few_steps"]["distance"] > 0
    html = report.page.read_text()
    assert "<svg" in html and "data:image/png" in html and "http://" not in html
    assert report.command in html.replace("&#x27;", "'")
    assert not (tmp_path / "new.run").exists()
    assert any("minutes" in line for line in lines)
