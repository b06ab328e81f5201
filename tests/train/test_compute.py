"""`python -m train.compute`: the cost of a bundle, written beside it."""

import json
import shutil

import pytest

from mmfm.papers import Papers
from train import compute


@pytest.fixture
def folder(tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle, tmp_path / "model")
    return tmp_path / "model"


def test_it_writes_the_cost_and_a_new_card(folder, tmp_path, capsys):
    stages = tmp_path / "stages.json"
    told = {"name": "flow", "samples": 10, "trained": {"network_evaluation": 1}, "cpu_seconds": 36}
    stages.write_text(json.dumps([told]))
    compute.main([str(folder), "--stages", str(stages), "--watts", "2", "4"], standalone_mode=False)
    papers = Papers.read(folder)
    assert json.loads(capsys.readouterr().out) == papers.compute
    assert papers.compute["energy"]["kwh"] == [2e-5, 4e-5]
    assert papers.changed == []
    assert "2e-05 to 4e-05 kWh at 2 to 4 W" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["no-such"], "no-such"), (["--stages", "nowhere"], "nowhere"), (["--watts", "3", "1"], "3")],
)
def test_a_wrong_call_is_one_line(folder, arguments, told, capsys):
    given = arguments if arguments[0] == "no-such" else [str(folder), *arguments]
    with pytest.raises(SystemExit) as ended:
        compute.main(given, standalone_mode=False)
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert told in line
    assert not (folder / "compute.json").exists()


def test_the_stages_of_mini_are_whole(tiny_model):
    from pathlib import Path

    from mmfm.training.compute import compute as cost
    from mmfm.training.compute import read_stages

    stages = read_stages(Path(compute.__file__).parent / "mini_stages.json")
    found = cost(tiny_model, stages)
    assert found["training"]["samples"] == sum(stage.samples for stage in stages)
    assert found["energy"] is not None
