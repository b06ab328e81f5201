"""The program of preference tuning: from prompts to a bundle, and what it refuses."""

import json

import pytest
import torch

import mmfm
from mmfm.errors import InputError
from mmfm.model import MMFM
from mmfm.presets import tiny
from train import prefer

PROMPTS = [f"{colour} {shape}" for colour in ("red", "green", "blue", "black", "white")
           for shape in ("square", "circle", "bar")]  # fmt: skip
SETTINGS = ("candidates=2", "candidate_steps=1", "rank=2", "batch_size=4", "loop.num_steps=2",
            "loop.log_every=1", "loop.precision=fp32")  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    model = MMFM.from_config(tiny(), texts=PROMPTS, device="cpu")
    with torch.no_grad():
        for parameter in model.decoder.network.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape))
    return model.save_pretrained(tmp_path_factory.mktemp("model"))


def run(bundle, folder, *settings):
    (folder / "names.txt").write_text("\n".join(PROMPTS) + "\n")
    (folder / "measure.txt").write_text("dog face\nred apple\n")
    arguments = ["--model", str(bundle), "--prompts", str(folder / "names.txt")]
    arguments += ["--measure", str(folder / "measure.txt")]
    try:
        prefer.main([*arguments, "-o", str(folder / "out"), *settings], standalone_mode=False)
    finally:
        torch.set_flush_denormal(False)  # the program sets it for its whole process


def test_from_prompts_to_a_tuned_bundle(bundle, tmp_path, capsys):
    run(bundle, tmp_path, *SETTINGS)
    report = json.loads(capsys.readouterr().out)
    held_out = sum(map(prefer.is_held_out, PROMPTS))
    assert 0 < held_out < len(PROMPTS)
    assert report["num_prompts"] == held_out + 2  # and those of measure.txt
    assert report["num_judged"] >= 1  # the judge can name these, and not a red square
    for kind in ("backbone", "captions", "judge"):
        assert 0 <= report[f"win_rate_{kind}"] <= 1
    tuned, before = mmfm.load(tmp_path / "out" / "bundle"), mmfm.load(bundle)
    weight = "network.out.weight"
    assert not torch.equal(tuned.decoder.state_dict()[weight], before.decoder.state_dict()[weight])
    assert tuned.backbone_hash != "" and len(tuned.generate("red square", num_steps=1)) == 1

    pairs = (tmp_path / "out" / "pairs" / "pairs.jsonl").read_text()
    run(bundle, tmp_path, *SETTINGS)  # all is done: nothing is drawn or trained again
    assert (tmp_path / "out" / "pairs" / "pairs.jsonl").read_text() == pairs


@pytest.mark.parametrize(("setting", "told"), [("ranks=3", "rank"), ("rank", "key=value")])
def test_unknown_settings_are_one_line_and_exit_2(bundle, tmp_path, capsys, setting, told):
    with pytest.raises(SystemExit) as ended:
        run(bundle, tmp_path, setting)
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("train.prefer: error: ") and told in line


def test_prompts_to_measure_on_are_not_tuned_on(bundle, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(bundle, tmp_path, "--measure", str(tmp_path / "names.txt"))
    assert "tuned on" in capsys.readouterr().err


def test_too_few_pairs_are_refused(bundle, tmp_path):
    model = mmfm.load(bundle)
    with pytest.raises(InputError, match="left to train on"):
        prefer.tune(prefer.Recipe(), model, [], tmp_path)
