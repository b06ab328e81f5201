"""The loop: resuming is bit exact, bad steps are skipped, and no end loses work."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmfm.data.order import Order
from mmfm.training import checkpoint
from mmfm.training.loop import LoopConfig, NonFiniteLoss, learning_rate, parameter_groups, train

ROOT = Path(__file__).parents[2]


def config(**changes):
    settings = {
        "num_steps": 20, "learning_rate": 0.02, "warmup_steps": 4, "ema_decay": 0.9,
        "log_every": 5, "evaluate_every": 10, "save_every": 6,
    }  # fmt: skip
    return LoopConfig(**{**settings, **changes})


def order():
    return Order(np.full(32, 1.3), 8, seed=0)


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def equal(one, two):
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_it_learns_and_says_so(make_task, tmp_path):
    task = make_task()
    average = train(task, order(), config(num_steps=150), tmp_path)
    said = lines(tmp_path)
    losses = [line["loss"] for line in said if "loss" in line]
    assert losses[-1] < 0.2 * losses[0]
    errors = [line["held_out_error"] for line in said if "held_out_error" in line]
    assert len(errors) == task.evaluations == 15
    assert errors[-1] < 0.2 * errors[0]
    assert not average.training
    assert not equal(average, task.module)  # the average is not the last step
    assert said[0] == {**said[0], "step": 5, "twice": 2.0}
    assert (tmp_path / "samples" / "sheet-0000150.png").is_file()
    assert checkpoint.load_newest(tmp_path)[0] == 150


@pytest.mark.parametrize("stop_after", [7, 12])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(make_task, tmp_path, stop_after):
    whole = make_task()
    whole_average = train(whole, order(), config(), tmp_path / "whole")

    part = make_task()
    train(part, order(), config(), tmp_path / "part", stop=lambda: part.calls >= stop_after)
    assert part.calls == stop_after
    assert checkpoint.load_newest(tmp_path / "part")[0] == stop_after

    torch.manual_seed(99)  # the state of torch's own generator does not matter
    rest = make_task()
    with torch.no_grad():  # nor do the weights that the resumed run starts with
        for parameter in rest.module.parameters():
            parameter.zero_()
    rest_average = train(rest, order(), config(), tmp_path / "part")
    assert rest.calls == 20 - stop_after
    assert equal(rest.module, whole.module)
    assert equal(rest_average, whole_average)
    one, two = (checkpoint.load_newest(tmp_path / name)[1] for name in ("whole", "part"))
    for i, moments in one["optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(two["optimizer"]["state"][i][name], value), name


def test_a_finished_run_is_not_trained_further(make_task, tmp_path):
    average = train(make_task(), order(), config(), tmp_path)
    again = make_task()
    assert equal(train(again, order(), config(), tmp_path), average)
    assert again.calls == 0


def test_a_bad_step_is_skipped_and_counted(make_task, tmp_path):
    task = make_task(broken=(3, 4, 9))
    train(task, order(), config(log_every=100), tmp_path)
    found = [line for line in lines(tmp_path) if "non_finite" in line]
    assert [(line["step"], line["non_finite"]) for line in found] == [(3, 1), (4, 2), (9, 1)]
    assert all(torch.isfinite(p).all() for p in task.module.parameters())
    assert checkpoint.load_newest(tmp_path)[0] == 20


def test_too_many_bad_steps_end_the_run_and_keep_the_last_good_checkpoint(make_task, tmp_path):
    task = make_task(broken=range(8, 100))
    with pytest.raises(NonFiniteLoss, match=r"3 steps in a row.*lower learning_rate"):
        train(task, order(), config(max_bad_steps=3), tmp_path)
    step, state = checkpoint.load_newest(tmp_path)
    assert step == 6
    assert all(torch.isfinite(value).all() for value in state["module"].values())


def test_the_rate_warms_up_then_falls_to_its_end():
    c = config(num_steps=100, learning_rate=1.0, warmup_steps=10, final_rate=0.1)
    rates = [learning_rate(step, c) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == rates[9] == pytest.approx(1.0)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(0.55)


def test_matrices_decay_and_vectors_do_not(make_task):
    module = make_task().module
    module[0].weight.requires_grad_(False)
    decayed, kept = parameter_groups(module, 0.05)
    assert decayed["weight_decay"] == 0.05
    assert kept["weight_decay"] == 0.0
    assert [id(p) for p in decayed["params"]] == [id(module[2].weight)]
    assert {id(p) for p in kept["params"]} == {id(module[0].bias), id(module[2].bias)}


def test_early_weights_are_soon_forgotten(make_task, tmp_path):
    """With a plain decay of 0.999, 150 steps would leave the average near its random start."""
    task = make_task()
    average = train(task, order(), config(num_steps=150, ema_decay=0.999), tmp_path)
    start = make_task().module
    for mean, last, first in zip(
        average.parameters(), task.module.parameters(), start.parameters(), strict=True
    ):
        assert (mean - last).norm() < 0.5 * (mean - first).norm()


PROGRAM = """
import os, signal, sys
import numpy as np
from pathlib import Path
from mmfm.data.order import Order
from mmfm.training.loop import LoopConfig, train
sys.path.insert(0, {here!r})
from conftest import LineTask

class Slow(LineTask):
    def loss(self, rows, generator):
        if self.calls == 5:
            print("ready", flush=True)
            sys.stdin.readline()
        return super().loss(rows, generator)

train(Slow(), Order(np.full(32, 1.3), 8, seed=0),
      LoopConfig(num_steps=20, learning_rate=0.02, warmup_steps=4, ema_decay=0.9, save_every=1000,
                 evaluate_every=1000, log_every=1000), Path(sys.argv[1]))
"""


def test_sigterm_saves_and_exits_143(make_task, tmp_path):
    program = PROGRAM.format(here=str(Path(__file__).parent))
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "run")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate("go\n", timeout=300)
    finally:
        child.kill()
    assert child.returncode == 143, errors
    step, _ = checkpoint.load_newest(tmp_path / "run")
    assert step == 6  # the step in which the signal came was finished

    resumed, whole = make_task(), make_task()
    settings = config(save_every=1000, evaluate_every=1000, log_every=1000)
    average = train(resumed, order(), settings, tmp_path / "run")
    assert resumed.calls == 14
    assert equal(average, train(whole, order(), settings, tmp_path / "whole"))


def test_the_log_of_a_resumed_run_goes_on(make_task, tmp_path):
    task = make_task()
    train(task, order(), config(), tmp_path, stop=lambda: task.calls >= 7)
    train(make_task(), order(), config(), tmp_path)
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == [5, 10, 15, 20]
    assert all(math.isfinite(line["loss"]) for line in lines(tmp_path) if "loss" in line)
