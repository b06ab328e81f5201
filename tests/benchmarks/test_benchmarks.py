"""Every benchmark runs, compares equal outputs, and prints its lines to the contract."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NO_RATIO = {"parity", "seconds"}  # no speed against a peer: test_parity.py, and at the end
NAMES = sorted({path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py")} - NO_RATIO)
KEYS = {
    "benchmark", "case", "ratio", "ours", "peer", "unit", "peer_version", "gate", "equal", "rounds",
    "spread",
}  # fmt: skip
QUICK = {
    "caption": ["--architecture", "small"],
    "contrastive_loss": ["--batch", 300],
    "embed_images": ["--architecture", "small"],
    "embed_texts": ["--architecture", "small"],
    "finetune_cache": ["--architecture", "small"],
    "folder_of_pictures": ["--pictures", 240],
    "index_search": ["--rows", 3000],
    "plan": ["--batch", 4],
    "train_step": ["--batch", 4],
}


def run(*arguments):
    command = [sys.executable, "-m", *map(str, arguments)]
    # what ours sets for itself, when it reads shards, is not for the peers of a new process
    environment = {name: value for name, value in os.environ.items() if name != "WDS_SECURE"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_prints_one_json_line_per_case(name, tiny_bundle):
    quick = QUICK.get(name, [])
    done = run(f"benchmarks.{name}", "--rounds", 1, "--model", tiny_bundle, *quick)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines
    assert len({line["case"] for line in lines}) == len(lines)
    for line in lines:
        assert set(line) == KEYS
        assert line["benchmark"] == name
        assert line["equal"] is True
        assert line["rounds"] == 1
        assert min(line["ours"], line["peer"], line["ratio"]) > 0


@pytest.mark.parametrize(
    ("arguments", "words"), [(["--model", "nowhere"], "nowhere"), (["--rounds", "0"], "at least 1")]
)
def test_a_wrong_call_is_told_in_one_sentence(arguments, words):
    done = run("benchmarks.embed_texts", *arguments)
    assert done.returncode == 2
    assert words in done.stderr and "Traceback" not in done.stderr


def test_rounds_alternate_and_the_first_is_not_measured():
    from benchmarks import interleave

    calls, ticks = [], iter(range(100))
    measured = interleave(
        lambda: calls.append("ours") or "a",
        lambda: calls.append("peer") or "b",
        rounds=3,
        clock=lambda: next(ticks),
    )
    assert calls == ["ours", "peer", "ours", "peer", "peer", "ours", "ours", "peer"]
    assert (measured.our_output, measured.peer_output) == ("a", "b")
    assert measured.ours == measured.peer == [1, 1, 1]


def test_a_ranking_may_swap_equals_and_nothing_else():
    from benchmarks.cold_start import difference

    def hits(**scores):
        return [{"path": path, "score": score} for path, score in scores.items()]

    assert difference(hits(a=0.5, b=0.4), hits(a=0.5, c=0.4)) == 0
    assert difference(hits(a=0.5, b=0.5), hits(b=0.5, a=0.5)) == 0
    assert difference(hits(a=0.5, b=0.4), hits(b=0.5, a=0.4)) == pytest.approx(0.1)
    assert difference(hits(a=0.5), hits(a=0.5, b=0.4)) == float("inf")


def test_seconds_from_a_cold_start_are_one_line_a_case(tiny_bundle):
    done = run("benchmarks.seconds", "--rounds", 1, "--model", tiny_bundle)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["case"].split()[0] for line in lines] == ["search", "caption", "generate"]
    for line in lines:
        assert line["seconds"] > 0 and line["within"] == (line["seconds"] <= line["limit"])
    assert done.returncode in (0, 1), done.stderr  # 1: a busy machine, which is no fault of ours
