"""Real processes that are stopped, killed and starved: nothing is lost, and the end is the same."""

import random
import signal
import time

import pytest
import torch

from mmfm.training import checkpoint
from mmfm.training.log import read_log

TIMES = {"samples_per_second", "gflops_per_second", "cpu_seconds"}
CONFIG = {
    "num_steps": 24, "learning_rate": 0.02, "warmup_steps": 4, "ema_decay": 0.9, "log_every": 1,
    "evaluate_every": 8, "save_every": 6,
}  # fmt: skip


def said(folder):
    """The log without what depends on the clock."""
    lines = read_log(folder / "log.jsonl")
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def same_end(one, two):
    """Weights, average, optimizer, and the log of losses, order of data and evaluations."""
    a, b = checkpoint.newest(one), checkpoint.newest(two)
    assert (a.step, a.notes) == (b.step, b.notes)
    left, right = a.read(), b.read()
    assert left.keys() == right.keys() and any(name.startswith("optimizer.") for name in left)
    for name, value in left.items():
        assert torch.equal(value, right[name]), name
    assert said(one) == said(two)


@pytest.fixture(scope="module")
def whole(nursery, tmp_path_factory):
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert nursery.start("line", folder=folder, config=CONFIG).wait() == 0
    assert [line["step"] for line in said(folder) if line["kind"] == "evaluation"] == [8, 16, 24]
    assert len({line["first_row"] for line in said(folder) if line["kind"] == "train"}) > 8
    return folder


@pytest.mark.parametrize(
    ("phase", "step"),
    [("warm-up", 0), ("first step", 1), ("step", 6), ("evaluation", 8), ("save", 12)],
)
def test_sigterm_saves_in_every_phase(nursery, wait_for, whole, tmp_path, phase, step):
    """An evaluation, which draws the samples too, is broken off; all else is finished first."""
    child = nursery.start("line", folder=tmp_path, config=CONFIG, hold=phase)
    wait_for(tmp_path / "ready", child)
    child.kill(signal.SIGTERM)
    if phase != "evaluation":
        (tmp_path / "go").touch()
    assert child.wait() == 143, child.errors()
    assert checkpoint.newest(tmp_path).step == step
    assert nursery.start("line", folder=tmp_path, config=CONFIG).wait() == 0
    same_end(tmp_path, whole)


def test_ctrl_c_saves_too(nursery, wait_for, whole, tmp_path):
    child = nursery.start("line", folder=tmp_path, config=CONFIG, hold="evaluation")
    wait_for(tmp_path / "ready", child)
    child.kill(signal.SIGINT)
    assert child.wait() == 130, child.errors()
    assert nursery.start("line", folder=tmp_path, config=CONFIG).wait() == 0
    same_end(tmp_path, whole)


def test_a_second_sigterm_ends_at_once(nursery, wait_for, whole, tmp_path):
    child = nursery.start("line", folder=tmp_path, config=CONFIG, hold="step")
    wait_for(tmp_path / "ready", child)
    child.kill(signal.SIGTERM)
    time.sleep(0.05)  # two that come together count as one
    while child.lives():
        child.kill(signal.SIGTERM)
        time.sleep(0.05)
    assert child.wait() == 143
    assert checkpoint.newest(tmp_path) is None  # it did not get to save
    assert nursery.start("line", folder=tmp_path, config=CONFIG).wait() == 0
    same_end(tmp_path, whole)


def test_two_runs_never_share_a_folder(nursery, wait_for, whole, tmp_path):
    """The lock is gone with its process, whatever ended that."""
    first = nursery.start("line", folder=tmp_path, config=CONFIG, hold="step")
    wait_for(tmp_path / "ready", first)
    second = nursery.start("line", folder=tmp_path, config=CONFIG)
    assert second.wait() == 2
    assert "another run is writing to" in second.errors()
    first.kill()
    assert first.wait() == -signal.SIGKILL
    assert nursery.start("line", folder=tmp_path, config=CONFIG).wait() == 0
    same_end(tmp_path, whole)


def survive(nursery, folder, whole, kills, config, how=signal.SIGKILL):
    """Kill at random moments; every time a checkpoint loads and none is older than before."""
    moments, run, latest = random.Random(0), 0, 0
    for _ in range(kills):
        run_folder = folder / str(run)
        child = nursery.start("line", folder=run_folder, config=config)
        time.sleep(moments.uniform(0, 0.25))
        child.kill(how)
        code = child.wait()
        assert code in (-how, 143, 0), child.errors()
        assert "damaged" not in child.errors()
        found = checkpoint.newest(run_folder)
        assert (found.step if found else 0) >= latest
        if found:
            assert found.read().keys() > {"module.0.weight"}
            latest = found.step
        if code == 0:  # it came to its end: another one is next
            run, latest = run + 1, 0
    assert nursery.start("line", folder=folder / str(run), config=config).wait() == 0
    for number in range(run + 1):
        same_end(folder / str(number), whole)
        assert {path.suffix for path in (folder / str(number)).glob("step-*")} == {""}


LONG = {**CONFIG, "num_steps": 400, "save_every": 2, "evaluate_every": 7}


@pytest.mark.filterwarnings("error::UserWarning")  # a damaged checkpoint would be named
def test_kills_at_random_moments_change_nothing(nursery, tmp_path):
    config = {**LONG, "num_steps": 40}
    assert nursery.start("line", folder=tmp_path / "whole", config=config).wait() == 0
    survive(nursery, tmp_path, tmp_path / "whole", 3, config)


@pytest.mark.filterwarnings("error::UserWarning")
def test_sigterms_at_random_moments_change_nothing(nursery, tmp_path):
    config = {**LONG, "num_steps": 40}
    assert nursery.start("line", folder=tmp_path / "whole", config=config).wait() == 0
    survive(nursery, tmp_path, tmp_path / "whole", 4, config, signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.filterwarnings("error::UserWarning")
def test_fifty_kills_at_random_moments_change_nothing(nursery, tmp_path):
    assert nursery.start("line", folder=tmp_path / "whole", config=LONG).wait() == 0
    survive(nursery, tmp_path, tmp_path / "whole", 50, LONG)


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(nursery, whole, tmp_path):
    child = nursery.start("line", folder=tmp_path, config=CONFIG, file_limit=20_000)
    assert child.wait() == 2
    [sentence] = [line for line in child.errors().splitlines() if line.startswith("error: ")]
    assert "step 12 cannot be written" in sentence and "goes on from step-0000006" in sentence
    assert "Traceback" not in child.errors()
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-0000006"]
    assert nursery.start("line", folder=tmp_path, config=CONFIG).wait() == 0
    same_end(tmp_path, whole)


def test_a_truncated_newest_checkpoint_costs_only_its_steps(nursery, whole, tmp_path):
    config = {**CONFIG, "save_every": 5}
    child = nursery.start("line", folder=tmp_path, config={**config, "num_steps": 24})
    assert child.wait() == 0
    files = list((tmp_path / "step-0000024").glob("*.distcp"))
    files[0].write_bytes(files[0].read_bytes()[:1000])
    child = nursery.start("line", folder=tmp_path, config=config)
    assert child.wait() == 0
    assert "step-0000024 is damaged" in child.errors() and "resumed at step 20" in child.errors()
    same_end(tmp_path, whole)
