"""`mmfm finetune` killed with SIGKILL in the middle of every stage; the same command goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmfm.finetuning.watch import LOG
from mmfm.training.log import read_log
from tests.finetuning.test_resume import weights

ROOT = Path(__file__).parents[2]
STEPS = {"towers": 40, "captions": 40, "pixels": 40, "flow": 80}
SETTINGS = ("--steps", "40", "--batch-size", "8", "--holdout", "0.25", "--precision", "fp32",
            "--train", "all", "--patience", "100")  # fmt: skip


def start(bundle, folder, known, output):
    command = [sys.executable, "-m", "mmfm", "finetune", folder, "-o", output, "--model", bundle,
               "--original", known, "--device", "cpu", *SETTINGS]  # fmt: skip
    return subprocess.Popen(
        [str(word) for word in command], cwd=ROOT, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def kill_within(process, stage):
    """Kill when the stage has a checkpoint and has gone on; the last step that its log tells of."""
    while not _gone_on(stage):
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    return max(line["step"] for line in read_log(stage / LOG))


def _gone_on(stage):
    saved = [int(path.name.split("-")[1]) for path in stage.glob("step-*") if path.suffix == ""]
    told = [line["step"] for line in read_log(stage / LOG)] if saved else []
    return bool(told) and max(told) > max(saved)


@pytest.mark.slow
def test_a_run_killed_in_every_stage_ends_as_if_it_had_not_been(
    grid_bundle, folder, known, tmp_path
):
    output = tmp_path / "cut"
    for stage, steps in STEPS.items():
        process = start(grid_bundle, folder, known, output)
        assert kill_within(process, tmp_path / "cut.run" / stage) < steps
        assert not output.exists()
    for name in ("cut", "whole"):
        process = start(grid_bundle, folder, known, tmp_path / name)
        assert process.wait() == 0, process.stderr.read().decode()
    assert not list(tmp_path.glob("*.run"))
    one, other = weights(tmp_path / "whole"), weights(output)
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)
