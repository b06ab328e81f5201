"""The loop: resuming is bit exact, bad steps are skipped, and no end loses work."""

import json
import math
import shutil
import threading

import numpy as np
import pytest
import torch

from mmfm.data.order import Order
from mmfm.errors import DataError
from mmfm.training import checkpoint
from mmfm.training.loop import LoopConfig, NonFiniteLoss, train
from mmfm.training.resume import ResumeError
from tests.training.small_tasks import BlocksTask, TwinsTask


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
    assert checkpoint.newest(tmp_path).step == 150


@pytest.mark.parametrize("stop_after", [7, 12])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(make_task, tmp_path, stop_after):
    whole = make_task()
    whole_average = train(whole, order(), config(), tmp_path / "whole")

    part = make_task()
    train(part, order(), config(), tmp_path / "part", stop=lambda: part.calls >= stop_after)
    assert part.calls == stop_after
    assert checkpoint.newest(tmp_path / "part").step == stop_after

    torch.manual_seed(99)  # the state of torch's own generator does not matter
    rest = make_task()
    with torch.no_grad():  # nor do the weights that the resumed run starts with
        for parameter in rest.module.parameters():
            parameter.zero_()
    rest_average = train(rest, order(), config(), tmp_path / "part")
    assert rest.calls == 20 - stop_after
    assert equal(rest.module, whole.module)
    assert equal(rest_average, whole_average)
    one, two = (checkpoint.newest(tmp_path / name).read() for name in ("whole", "part"))
    assert one.keys() == two.keys() and "optimizer.exp_avg.0.weight" in one
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_finished_run_is_not_trained_further(make_task, tmp_path):
    average = train(make_task(), order(), config(), tmp_path)
    again = make_task()
    assert equal(train(again, order(), config(), tmp_path), average)
    assert again.calls == 0


def test_a_bad_step_is_skipped_and_counted(make_task, tmp_path):
    task = make_task(broken=(3, 4, 9))
    train(task, order(), config(log_every=100), tmp_path)
    found = [line for line in lines(tmp_path) if "non_finite" in line]
    assert [(line["step"], line["non_finite"]) for line in found] == [(4, 1), (5, 2), (10, 1)]
    assert all(torch.isfinite(p).all() for p in task.module.parameters())
    assert checkpoint.newest(tmp_path).step == 20


def test_bad_steps_are_counted_across_a_stop(make_task, tmp_path):
    task = make_task(broken=(5, 6))
    train(task, order(), config(max_bad_steps=4), tmp_path, stop=lambda: task.calls >= 7)
    with pytest.raises(NonFiniteLoss, match=r"4 steps in a row .* at step 9"):
        train(make_task(broken=(0, 1)), order(), config(max_bad_steps=4), tmp_path)


def test_too_many_bad_steps_end_the_run_and_keep_the_last_good_checkpoint(make_task, tmp_path):
    task = make_task(broken=range(8, 100))
    with pytest.raises(NonFiniteLoss, match=r"3 steps in a row.*lower learning_rate"):
        train(task, order(), config(max_bad_steps=3), tmp_path)
    found = checkpoint.newest(tmp_path)
    assert found.step == 6
    assert all(torch.isfinite(value).all() for value in found.read("module.").values())


def test_early_weights_are_soon_forgotten(make_task, tmp_path):
    """With a plain decay of 0.999, 150 steps would leave the average near its random start."""
    task = make_task()
    average = train(task, order(), config(num_steps=150, ema_decay=0.999), tmp_path)
    start = make_task().module
    for mean, last, first in zip(
        average.parameters(), task.module.parameters(), start.parameters(), strict=True
    ):
        assert (mean - last).norm() < 0.5 * (mean - first).norm()


def test_the_log_of_a_resumed_run_goes_on(make_task, tmp_path):
    task = make_task()
    train(task, order(), config(), tmp_path, stop=lambda: task.calls >= 7)
    train(make_task(), order(), config(), tmp_path)
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == [5, 10, 15, 20]
    assert all(math.isfinite(line["loss"]) for line in lines(tmp_path) if "loss" in line)


def test_the_same_weights_come_of_any_number_of_parts(tmp_path):
    """For a contrastive task, whose loss is no mean of parts, and with dropout."""
    averages = {}
    for parts in (1, 4):
        task = TwinsTask()
        for module in task.module.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # masks differ between one draw of eight and four of two
        task.encode = lambda rows, generator, task=task: plain_encode(task, rows)
        averages[parts] = train(task, order(), config(accumulate=parts), tmp_path / str(parts))
    for one, two in zip(averages[1].parameters(), averages[4].parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-5)


def plain_encode(task, rows):
    """Without noise, which comes part by part."""
    towers = (task.module.one, task.module.two)
    normal = torch.nn.functional.normalize
    return [normal(tower.predict(task.x[rows]), dim=-1) for tower in towers], None, {}


def test_bf16_computes_in_bf16_and_keeps_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # a processor without it
    seen = []

    class Watched(BlocksTask):
        def loss(self, rows, generator):
            hook = self.module.outer.register_forward_hook(lambda *a: seen.append(a[2].dtype))
            found = super().loss(rows, generator)
            hook.remove()
            return found

    task = Watched()
    with pytest.warns(UserWarning, match="no bf16 arithmetic"):
        average = train(task, order(), config(num_steps=60, precision="bf16"), tmp_path)
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in (*task.module.parameters(), *average.parameters())} == {torch.float32}
    losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]


def test_operations_are_counted_once(tmp_path, make_task):
    """Forward 2 (4 8 + 8) and backward 2 (4 8 + 2 8): no gradient goes to the inputs."""
    task = make_task()
    train(task, order(), config(), tmp_path, stop=lambda: task.calls >= 7)
    notes = checkpoint.newest(tmp_path).notes
    assert notes["flops_per_sample"] == 2 * (4 * 8 + 8) + 2 * (4 * 8 + 8 + 8)
    train(make_task(), order(), config(), tmp_path)
    assert checkpoint.newest(tmp_path).notes["flops_per_sample"] == notes["flops_per_sample"]
    [*_, last] = [line for line in lines(tmp_path) if line["kind"] == "train"]
    speed = last["samples_per_second"] * notes["flops_per_sample"] / 1e9
    assert last["gflops_per_second"] == pytest.approx(speed)


def test_without_an_average_the_weights_themselves_are_measured(make_task, tmp_path):
    task = make_task()
    assert train(task, order(), config(ema_decay=0.0), tmp_path) is task.module
    again = make_task()
    train(again, order(), config(ema_decay=0.0), tmp_path / "b", stop=lambda: again.calls >= 11)
    rest = make_task()
    train(rest, order(), config(ema_decay=0.0), tmp_path / "b")
    assert rest.calls == 9 and equal(rest.module, task.module)


class Printed:
    """Batches of an order, with a fingerprint."""

    def __init__(self, print_="one", size=8):
        self.order, self.print, self.closed = Order(np.full(32, 1.3), size, seed=0), print_, False

    def batch(self, step):
        return self.order.batch(step)

    def fingerprint(self):
        return self.print

    def close(self):
        self.closed = True


@pytest.fixture(scope="module")
def halfway(tmp_path_factory):
    """A run that stopped after 12 of 20 steps."""
    from tests.training.small_tasks import LineTask

    folder, task = tmp_path_factory.mktemp("halfway"), LineTask()
    batches = Printed()
    train(task, batches, config(), folder, stop=lambda: task.calls >= 12, settings={"size": 3})
    assert batches.closed
    return folder


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"weight_decay": 0.5}, "weight_decay is 0.5 but was 0.05 in the checkpoint of step 12"),
        ({"num_steps": 40}, "num_steps is 40 but was 20"),
        ({"seed": 1}, "seed is 1"),
        ({"precision": "bf16"}, "precision"),
        ({"parts": (("0", 0.5),)}, "parts"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*bf16")
def test_other_settings_are_refused_unless_asked(make_task, halfway, tmp_path, change, told):
    shutil.copytree(halfway, tmp_path / "run")
    with pytest.raises(ResumeError, match=told):
        train(make_task(), Printed(), config(**change), tmp_path / "run", settings={"size": 3})
    task = make_task()
    asked = config(**change, resume="anyway")
    train(task, Printed(), asked, tmp_path / "run", settings={"size": 3})
    assert task.calls == asked.num_steps - 12


@pytest.mark.parametrize(
    ("batches", "settings", "told"),
    [
        (Printed("two"), {"size": 3}, "data is not what it was .* two, was one"),
        (Printed(size=4), {"size": 3}, "a step has 4 samples and had 8"),
        (Printed(), {"size": 4}, "size is 4 but was 3"),
        (Printed(), {}, "size is None but was 3"),
    ],
)
def test_other_data_are_refused(make_task, halfway, tmp_path, batches, settings, told):
    shutil.copytree(halfway, tmp_path / "run")
    with pytest.raises(ResumeError, match=told):
        train(make_task(), batches, config(), tmp_path / "run", settings=settings)


def test_what_decides_nothing_may_change(make_task, halfway, tmp_path):
    whole, rest = make_task(), make_task()
    train(whole, Printed(), config(), tmp_path / "whole")
    shutil.copytree(halfway, tmp_path / "run")
    other = config(log_every=1, save_every=3, evaluate_every=4, max_bad_steps=2)
    train(rest, Printed(), other, tmp_path / "run", settings={"size": 3})
    assert rest.calls == 8 and equal(rest.module, whole.module)


def test_a_constant_run_can_be_made_longer(make_task, tmp_path):
    settings = {"schedule": "constant", "num_steps": 12}
    train(make_task(), order(), config(**settings), tmp_path / "run")
    whole, rest = make_task(), make_task()
    longer = config(**{**settings, "num_steps": 20})
    average = train(whole, order(), longer, tmp_path / "whole")
    assert equal(train(rest, order(), longer, tmp_path / "run"), average)
    assert rest.calls == 8


def test_a_thread_can_train_too(make_task, tmp_path):
    """Signals cannot be heard there; `stop` is the way to end it."""
    found = []
    thread = threading.Thread(
        target=lambda: found.append(train(make_task(), order(), config(), tmp_path / "thread"))
    )
    thread.start()
    thread.join()
    assert equal(found[0], train(make_task(), order(), config(), tmp_path / "main"))


def test_data_that_fail_lose_no_step(make_task, tmp_path):
    class Failing(Printed):
        def batch(self, step):
            if step == 9:
                raise DataError("shard 00003.tar is cut short")
            return super().batch(step)

    with pytest.raises(DataError, match=r"00003\.tar"):
        train(make_task(), Failing(), config(save_every=1000), tmp_path)
    assert checkpoint.newest(tmp_path).step == 9


def test_an_evaluation_that_fails_loses_no_step(make_task, tmp_path):
    task = make_task()
    task.evaluate = lambda module: 1 / 0
    with pytest.raises(ZeroDivisionError):
        train(task, order(), config(save_every=1000), tmp_path)
    assert checkpoint.newest(tmp_path).step == 10
    rest = make_task()
    train(rest, order(), config(save_every=1000), tmp_path)
    assert (rest.calls, rest.evaluations) == (10, 2)  # the one that failed was made up for
