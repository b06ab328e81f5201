"""`mmfm train`: shards in, a model out; the same again goes on; plans train nothing."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from safetensors.torch import load_file

import mmfm
from mmfm.data import Sample, write_shards

ROOT = Path(__file__).parents[2]
TINY = ROOT / "train" / "tiny.py"
COLOURS = ("red", "green", "blue", "black", "orange", "purple")
SMALL = (
    "model_cfg.embed_dim=16", "model_cfg.vision_cfg.image_size=32", "model_cfg.vision_cfg.layers=1",
    "model_cfg.vision_cfg.width=32", "model_cfg.vision_cfg.head_width=16",
    "model_cfg.text_cfg.width=32", "model_cfg.text_cfg.layers=1", "batch_size=8",
    "held_out_samples=12", "loop.num_steps=6", "loop.log_every=1", "loop.evaluate_every=6",
    "loop.save_every=2",
)  # fmt: skip


def sample(number, captions=None):
    colour = COLOURS[number % 6]
    image = Image.new("RGB", (40, 36), "white")
    ImageDraw.Draw(image).ellipse((4, 4, 20 + number % 15, 30), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    said = (f"a {colour} shape", f"{colour} {number}") if captions is None else captions
    return Sample(f"{number:05d}", buffer.getvalue(), said, {})


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards([sample(n) for n in range(40)], folder / "train", max_count=11)
    write_shards([sample(n) for n in range(40, 56)], folder / "test")
    return folder


@pytest.fixture
def train(run, shards):
    """train(*settings, options...) with the tiny recipe, made smaller still."""

    def train(*arguments, recipe=TINY, data=shards / "train"):
        given = [] if data is None else [f"data={data}"]
        return run("train", recipe, *SMALL, *given, *arguments)

    return train


def weights(folder):
    return load_file(Path(folder) / "bundle" / "open_clip_model.safetensors")


def same(ours, theirs, tolerance=0.0):
    assert ours.keys() == theirs.keys()
    return all((ours[k] - theirs[k]).abs().max().item() <= tolerance for k in ours)


def test_from_shards_to_a_model_that_searches(train, run, shards, tmp_path):
    out = tmp_path / "run"
    told = train(f"held_out={shards / 'test'}", "-o", out, "--json", "--device", "cpu").document
    assert (told["steps"], told["samples_seen"], told["samples"]) == (6, 48, 40)
    assert told["held_out"]["held_out"] == 12
    assert 0 <= told["held_out"]["held_out_text_to_image_recall@1"] <= 1
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert json.loads((out / "recipe.json").read_text())["batch_size"] == 8

    model = mmfm.load(out / "bundle", device="cpu")
    assert model.name == "tiny"
    assert model.embed_images(Image.new("RGB", (9, 9), "red")).shape == (1, 16)
    assert model.info()["trained_on"]["samples"] == 40
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (20, 20), colour).save(pictures / f"{colour}.png")
    chosen = ("--model", out / "bundle", "--device", "cpu")
    hits = run("search", pictures, "a red shape", "-k", 2, "--json", *chosen).document
    assert len(hits) == 2
    assert run("info", *chosen).code == 0


def test_the_same_again_goes_on_and_another_recipe_does_not(train, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train("-o", whole).code == 0
    # a run that lost its last steps: what was saved of step 4 is all there is
    assert train("-o", halves).code == 0
    for path in halves.glob("step-0000006"):
        for file in path.iterdir():
            file.write_bytes(b"")
    again = train("-o", halves)
    assert again.code == 0 and "resumed at step 4" in again.err
    assert same(weights(whole), weights(halves))
    assert "captions" in train("captions=random", "-o", halves).refused()
    assert "batch_size" in train("batch_size=4", "-o", halves).refused()
    assert train("loop.log_every=2", "workers=0", "-o", halves).code == 0


def test_seeds_and_captions_decide_the_weights(train, tmp_path):
    settings = ([], ["loop.seed=1"], ["captions=random"], ["crop=0.3"], [])
    for number, changed in enumerate(settings):
        assert train("loop.num_steps=2", *changed, "-o", tmp_path / str(number)).code == 0
    first, *others, last = (weights(tmp_path / str(n)) for n in range(5))
    assert same(first, last)
    assert not any(same(first, other) for other in others)


def test_samples_without_captions_are_skipped_counted_and_listed(train, tmp_path):
    samples = [sample(n, () if n in (3, 4) else None) for n in range(30)]
    write_shards(samples, tmp_path / "data")
    out = tmp_path / "run"
    told = train("-o", out, "max_bad=0.2", "--json", data=tmp_path / "data").document
    assert told["bad_samples"] == {"no-caption": 2}
    listed = [json.loads(line) for line in (out / "bad-0.jsonl").read_text().splitlines()]
    assert sorted(line["key"] for line in listed) == ["00003", "00004"]
    stopped = train("-o", tmp_path / "x", "on_bad=raise", data=tmp_path / "data")
    assert stopped.code == 2 and "has no caption" in stopped.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "x", "loop.num_step=3"], "loop.num_steps"),
        (["-o", "x", "batch_size=9", "loop.accumulate=2"], "multiple of 2"),
        (["-o", "x", "batch_size=64"], "40 samples, fewer than batch_size=64"),
        (["-o", "x", "held_out=nowhere"], "nowhere"),
        (["-o", "x", "--device", "tpu"], "tpu"),
        ([], "-o runs/NAME"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(train, tmp_path, monkeypatch, arguments,
                                                       said):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert said in train(*arguments).refused()


def test_missing_data_and_recipes_are_refused_in_one_line(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "data=FOLDER" in train("-o", "x", data=None).refused()
    assert "there is no 'nowhere'" in train("-o", "x", data="nowhere").refused()
    assert "nowhere" in train("-o", "x", data="nowhere/*.tar").refused()
    assert "no recipe file" in train("-o", "x", recipe="nowhere.py").refused()
    assert "no function 'other'" in train("-o", "x", recipe=f"{TINY}:other").refused()
    assert not (tmp_path / "x").exists()


def test_more_processes_than_samples_are_refused(train, tmp_path):
    write_shards([sample(n) for n in range(3)], tmp_path / "data")
    line = train("--dry-run", "cluster.gpus=8", data=tmp_path / "data").refused()
    assert "3 samples, fewer than the 8 processes" in line


def test_a_plan_needs_no_data_and_trains_nothing(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = train("--plan", "--json", "-o", "x", data=None).document
    assert found["parameters"]["total"] > 1_000_000  # most of them words
    assert found["memory"]["fits"] is True
    words = train("--plan", data=None)
    assert "it fits" in words.out and words.code == 0
    assert "cluster.gpu" in train("--plan", "cluster.gpu=Z80", data=None).refused()
    assert list(tmp_path.iterdir()) == []


def test_a_plan_does_not_load_torch():
    code = (
        "import sys; from mmfm.cli import main; main(sys.argv[1:]);"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "train", TINY, "--plan"], capture_output=True, text=True,
        cwd=ROOT, check=True,
    )  # fmt: skip
    assert done.stderr.strip() == "False"


def test_a_rehearsal_opens_the_data_and_says_what_to_run(train, shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = train("--dry-run", f"held_out={shards / 'test'}", "--json").document
    assert told["step"]["features"] == [[8, 16], [8, 16], [8]]
    assert (told["data"]["samples"], told["data"]["held_out"]) == (40, 12)
    assert told["commands"]["run"].startswith("mmfm train ")
    assert told["commands"]["run"].endswith("-o runs/tiny")
    many = train("--dry-run", "cluster.nodes=2", "cluster.gpus=2", "--json").document
    assert many["step"]["at_once"] == 2
    assert "--nnodes=2 --nproc-per-node=2" in many["commands"]["slurm"]
    assert train("--dry-run", "model_cfg.vision_cfg.width=33").refused()
    assert list(tmp_path.iterdir()) == []


def python(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)], cwd=ROOT, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, **options,
    )  # fmt: skip


@pytest.mark.slow
def test_a_signal_saves_and_the_next_call_goes_on(shards, tmp_path):
    call = ("mmfm", "train", TINY, *SMALL, f"data={shards / 'train'}", "loop.num_steps=40",
            "loop.save_every=1000")  # fmt: skip
    out = tmp_path / "run"
    child = python(*call, "-o", out)
    log = out / "log.jsonl"
    while not (log.exists() and len(log.read_text().splitlines()) > 2) and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    assert child.wait() == 143
    assert not (out / "bundle").exists()
    assert python(*call, "-o", out).wait() == 0
    assert python(*call, "-o", tmp_path / "whole").wait() == 0
    assert same(weights(out), weights(tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_processes_equal_one(shards, tmp_path, parallel):
    settings = (*SMALL, f"data={shards / 'train'}", "captions=random", f"loop.parallel={parallel}")
    one = python("mmfm", "train", TINY, *settings, "loop.accumulate=2", "-o", tmp_path / "one")
    assert one.wait() == 0, one.stderr.read()
    two = python("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "mmfm",
                 "train", TINY, *settings, "-o", tmp_path / "two")  # fmt: skip
    assert two.wait() == 0, two.stderr.read()
    ours, theirs = (weights(tmp_path / name) for name in ("one", "two"))
    for found in (ours, theirs):
        for name, value in found.items():
            if name.endswith("in_proj_bias"):
                # a bias of all keys changes no attention: its gradient is rounding alone, of which
                # Adam makes whole steps
                value[len(value) // 3 : 2 * len(value) // 3] = 0
    assert same(ours, theirs, 1e-6)


@pytest.mark.slow
def test_workers_change_nothing(shards, tmp_path):
    for workers in (0, 2):
        call = ("mmfm", "train", TINY, *SMALL, f"data={shards / 'train'}", f"workers={workers}")
        assert python(*call, "-o", tmp_path / str(workers)).wait() == 0
    assert same(weights(tmp_path / "0"), weights(tmp_path / "2"))
    assert np.isfinite(sum(x.float().sum().item() for x in weights(tmp_path / "0").values()))
