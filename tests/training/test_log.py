"""The log: any JSON reader reads it, and a resumed run goes on where it was."""

import json
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mmfm.errors import InputError, OutputError
from mmfm.training.log import Log, read_log


def strict(path):
    """As a reader that knows no NaN would."""

    def refuse(token):
        raise ValueError(token)

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_numbers_are_plain_and_what_is_not_finite_is_null(tmp_path):
    log = Log(tmp_path)
    more = {"d": {"e": [1, -float("inf")]}, "f": "words", "g": torch.tensor([1.0, 2.0])}
    numbers = {"a": float("nan"), "b": np.float32(0.5), "c": torch.tensor(float("inf"))}
    log.train(1, {**numbers, **more})
    log.skipped(2, 7)
    log.close()
    one, two = strict(tmp_path / "log.jsonl")
    assert one == {"step": 1, "kind": "train", "a": None, "b": 0.5, "c": None,
                   "d": {"e": [1, None]}, "f": "words", "g": [1.0, 2.0]}  # fmt: skip
    assert two == {"step": 2, "kind": "skipped", "non_finite": 7}


def test_an_evaluation_is_pictures_then_a_line(tmp_path):
    log = Log(tmp_path)
    assert not log.evaluated(5)
    log.evaluation(5, {"score": 0.5}, {"sheet": Image.new("RGB", (4, 3), "red")})
    assert log.evaluated(5)
    log.close()
    assert Image.open(tmp_path / "samples" / "sheet-0000005.png").size == (4, 3)
    assert strict(tmp_path / "log.jsonl") == [{"step": 5, "kind": "evaluation", "score": 0.5}]


def test_a_resumed_log_drops_what_will_come_again_and_torn_lines(tmp_path):
    log = Log(tmp_path)
    for step in range(1, 7):
        log.train(step, {"loss": step})
        if step % 2 == 0:
            log.evaluation(step, {}, {})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"step": 7, "kind": "tra')
    again = Log(tmp_path, 4)
    assert [again.evaluated(step) for step in (2, 4, 6)] == [True, True, False]
    again.train(5, {"loss": "new"})
    again.close()
    lines = strict(tmp_path / "log.jsonl")
    assert [(line["step"], line["kind"][0]) for line in lines] == [
        (1, "t"), (2, "t"), (2, "e"), (3, "t"), (4, "t"), (4, "e"), (5, "t")
    ]  # fmt: skip
    assert lines[-1]["loss"] == "new"


def test_a_quiet_log_writes_nothing(tmp_path, capsys):
    log = Log(tmp_path / "run", quiet=True)
    log.train(1, {"a": 1.0})
    log.evaluation(1, {}, {"sheet": Image.new("RGB", (4, 3))})
    log.say("hello")
    log.close()
    assert not (tmp_path / "run").exists() and capsys.readouterr().err == ""


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"log cannot be written to .*file \("):
        Log(tmp_path / "file")


def test_tensorboard_holds_the_same(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = Log(tmp_path)
    for step in range(1, 6):
        log.train(step, {"loss": 1.0 * step})
    log.close()
    log = Log(tmp_path, 3)
    log.train(4, {"loss": 40.0})
    log.evaluation(4, {}, {"sheet": Image.new("RGB", (4, 3))})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [
        (1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)
    ]  # fmt: skip
    assert events.Images("sheet")[0].step == 4


def test_without_wandb_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"pip install 'mmfm\[wandb\]'"):
        Log(tmp_path, wandb="project")


def test_wandb_resumes_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    for step in (1, 2):
        log = Log(tmp_path, step - 1, wandb="project", settings={"seed": 3})
        log.train(step, {"loss": float(step)})
        log.evaluation(step, {"score": 1.0}, {"sheet": Image.new("RGB", (4, 3))})
        log.close()
    name = (tmp_path / "wandb-run-id").read_text()
    runs = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert runs and {run.name.rsplit("-", 1)[1] for run in runs} == {name}
    assert all(any(run.glob("*.wandb")) for run in runs)
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == [1, 1, 2, 2]
