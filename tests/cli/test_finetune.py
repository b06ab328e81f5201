"""`mmfm finetune`: one command, a model and a report."""

import json

import pytest

import mmfm
from tests.finetuning.conftest import fill

QUICK = ("--steps", 4, "--batch-size", 8, "--holdout", 0.25, "--precision", "fp32")


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path / "pictures")


def test_a_model_and_a_report(tiny, folder, tmp_path):
    done = tiny("finetune", folder, "-o", tmp_path / "new", *QUICK, "--train", "heads", "--json")
    told = done.document
    assert told == json.loads((tmp_path / "new" / "report.json").read_text())
    assert told["figures"]["held_out"]["after"]["retrieval"]["gallery"] >= 4
    assert "minutes" in done.err and "held out" in done.err
    assert mmfm.load(tmp_path / "new", device="cpu").can_caption


def test_the_plan_trains_nothing(tiny, folder, tmp_path):
    told = tiny("finetune", folder, "-o", tmp_path / "new", *QUICK, "--plan", "--json").document
    assert told["minutes"] >= 0 and told["memory_gib"] > 0
    assert {stage["name"] for stage in told["stages"]} >= {"captions", "flow"}
    assert not list(tmp_path.glob("new*"))


def test_wrong_calls_are_one_line(tiny, folder, tmp_path):
    new = tmp_path / "new"
    assert "no head 'speech'" in tiny("finetune", folder, "-o", new, "--heads", "speech").refused()
    assert "blocks:N" in tiny("finetune", folder, "-o", new, "--train", "much").refused()
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "empty" in tiny("finetune", empty, "-o", new).refused()
