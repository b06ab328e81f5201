"""Two real processes equal one: DDP and FSDP2, clipping, average, resume, signals."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmfm.training import checkpoint
from mmfm.training.distributed import World
from mmfm.training.log import read_log
from mmfm.training.parallel import blocks
from tests.training.small_tasks import Twins

ROOT = Path(__file__).parents[2]
CONFIG = {
    "num_steps": 8, "learning_rate": 0.02, "warmup_steps": 2, "ema_decay": 0.9, "clip_norm": 0.2,
    "log_every": 1, "evaluate_every": 4, "save_every": 4, "parts": (("blocks.0.norm", 0.0),),
}  # fmt: skip
ONE = {**CONFIG, "accumulate": 2}  # the same parts, one after another


def run(nursery, count, folder, config, task="blocks", **said):
    children = nursery.start_many(
        count, "together", folder=folder, config=config, task=task, **said
    )
    codes = [child.wait() for child in children]
    assert codes == [0] * count, "\n".join(child.errors() for child in children)
    return folder


@pytest.fixture(scope="module")
def alone(nursery, tmp_path_factory):
    """What one process makes of each task."""
    folder = tmp_path_factory.mktemp("alone")
    return {t: run(nursery, 1, folder / t, ONE, t) for t in ("blocks", "twins")}


def agree(one, two, tolerance=2e-6):
    """Checkpoints (weights, optimizer, average), what train() returned, losses and norms."""
    a, b = checkpoint.newest(one), checkpoint.newest(two)
    assert a.step == b.step == 8
    left, right = a.read(), b.read()
    assert left.keys() == right.keys()
    apart = {n: (v - right[n]).abs().max().item() for n, v in left.items() if v.is_floating_point()}
    assert max(apart.values()) < tolerance, apart
    one_, two_ = (torch.load(path / "returned.pt") for path in (one, two))
    assert one_.keys() == two_.keys()
    assert all(torch.allclose(v, two_[n], atol=tolerance) for n, v in one_.items())
    logs = [read_log(path / "log.jsonl") for path in (one, two)]
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]]
    for x, y in zip(*logs):
        for name in ("loss", "gradient_norm", "learning_rate", "share", "error"):
            assert x.get(name, 0) == pytest.approx(y.get(name, 0), rel=1e-4), name
        if x["kind"] == "train":
            assert x["gradient_norm"] > CONFIG["clip_norm"]  # or clipping is not tried


SLOW = pytest.mark.slow
BLOCKS_DDP, TWINS_DDP, BLOCKS_FSDP, TWINS_FSDP = (
    (task, parallel) for parallel in ("ddp", "fsdp2") for task in ("blocks", "twins")
)


@pytest.mark.parametrize(
    ("task", "parallel"),
    [BLOCKS_DDP, TWINS_DDP, BLOCKS_FSDP, pytest.param(*TWINS_FSDP, marks=SLOW)],
)
def test_two_processes_equal_one(nursery, alone, tmp_path, task, parallel):
    run(nursery, 2, tmp_path, {**CONFIG, "parallel": parallel}, task)
    agree(alone[task], tmp_path)
    weights = load_file(checkpoint.export(tmp_path, tmp_path / "weights.safetensors"))
    returned = torch.load(tmp_path / "returned.pt")
    assert weights.keys() == returned.keys()
    assert all(torch.equal(value, returned[name]) for name, value in weights.items())
    files = sorted((tmp_path / "step-0000008").glob("*.distcp"))
    assert [path.name for path in files] == ["__0_0.distcp", "__1_0.distcp"]  # each writes its own


@pytest.mark.parametrize(
    ("task", "parallel"),
    [
        pytest.param(*BLOCKS_DDP, marks=SLOW), TWINS_DDP,
        pytest.param(*BLOCKS_FSDP, marks=SLOW), TWINS_FSDP,
    ],
)  # fmt: skip
def test_parts_of_two_processes_equal_parts_of_one(nursery, tmp_path, task, parallel):
    run(nursery, 1, tmp_path / "one", {**CONFIG, "accumulate": 4}, task)
    run(nursery, 2, tmp_path / "two", {**CONFIG, "accumulate": 2, "parallel": parallel}, task)
    agree(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ((2, {"parallel": "fsdp2"}), (1, {"accumulate": 2})),
        ((1, {"accumulate": 2}), (2, {"parallel": "fsdp2"})),
        pytest.param((2, {"parallel": "ddp"}), (1, {"accumulate": 2}), marks=SLOW),
        pytest.param((1, {"accumulate": 2}), (2, {"parallel": "ddp"}), marks=SLOW),
    ],
)
def test_another_number_of_processes_goes_on(nursery, wait_for, alone, tmp_path, first, then):
    """The first ones are stopped after 5 steps by a SIGTERM that only the last of them gets."""
    count, change = first
    children = nursery.start_many(
        count, "together", folder=tmp_path, config={**CONFIG, **change}, task="blocks", hold_at=5
    )
    for rank, child in enumerate(children):
        wait_for(tmp_path / f"ready-{rank}", child)
    children[-1].kill(signal.SIGTERM)
    (tmp_path / "go").touch()
    codes = [child.wait() for child in children]
    assert set(codes) == {143}, children[0].errors()
    assert checkpoint.newest(tmp_path).step == 6  # the step in which the signal came was finished
    assert "resumed" not in children[0].errors()
    (tmp_path / "returned.pt").unlink(missing_ok=True)
    run(nursery, then[0], tmp_path, {**CONFIG, **then[1]})
    agree(alone["blocks"], tmp_path)


@SLOW
def test_a_lost_shard_falls_back_in_all_processes(nursery, alone, tmp_path):
    config = {**CONFIG, "parallel": "fsdp2"}
    run(nursery, 2, tmp_path, config)
    (tmp_path / "step-0000008" / "__1_0.distcp").write_bytes(b"")
    run(nursery, 2, tmp_path, config)
    agree(alone["blocks"], tmp_path)


def test_blocks_are_found():
    module = Twins()
    wanted = [*module.one.blocks, *module.two.blocks]
    assert [id(block) for block in blocks(module)] == [id(block) for block in wanted]
    assert blocks(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh())) == []


def test_one_process_answers_itself():
    world = World()
    assert world.first and world.group is None
    assert world.any(True) and not world.any(False)
    assert world.gather({"a": 1}) == [{"a": 1}]
    told = world.mean({"a": 1, "b": torch.tensor(0.5), "c": "words"})
    assert told == {"a": 1.0, "b": 0.5, "c": "words"}


@SLOW
def test_torchrun_starts_it(alone, tmp_path):
    program = (
        "from tests.training import nursery; "
        f"nursery.together({str(tmp_path)!r}, { ({**CONFIG, 'parallel': 'fsdp2'})!r}, 'blocks')"
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    done = subprocess.run(
        [*torchrun, str(script)], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    agree(alone["blocks"], tmp_path)
