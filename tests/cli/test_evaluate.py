"""`mmfm evaluate`: figures of held-out shards, for people and for programs."""

import io

import pytest
from PIL import Image

from mmfm.data import Sample, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "test"
    samples = []
    for i, colour in enumerate(("red", "green", "blue", "yellow")):
        buffer = io.BytesIO()
        Image.new("RGBA", (32, 32), colour).save(buffer, "PNG")
        meta = {"key": f"s:{colour}", "name": colour, "set": "warm" if i % 3 == 0 else "cold"}
        samples.append(Sample(f"{i:09d}", buffer.getvalue(), (colour, f"a {colour} square"), meta))
    write_shards(samples, folder)
    return folder


def test_every_figure_comes_with_counts(run, tiny_bundle, shards):
    figures = run("evaluate", "--data", shards, "--model", tiny_bundle, "--json").document
    assert figures["data"]["num_samples"] == 4
    assert figures["retrieval"]["gallery"] == 4
    assert 0 <= figures["captioning"]["token_f1"] <= 1
    assert figures["reconstruction"]["psnr"] > 0
    assert len(figures["backbone_hash"]) == 64


def test_sets_and_limit_choose_samples(run, tiny_bundle, shards):
    options = ("--data", shards, "--model", tiny_bundle, "--json")
    assert run("evaluate", *options, "--sets", "warm").document["data"]["num_samples"] == 2
    assert run("evaluate", *options, "--limit", "3").document["data"]["num_samples"] == 3


def test_unknown_sets_and_missing_shards_are_refused(run, tiny_bundle, shards, tmp_path):
    model = ("--model", tiny_bundle)
    assert "cold, warm" in run("evaluate", "--data", shards, "--sets", "hot", *model).refused()
    assert "shards" in run("evaluate", "--data", tmp_path, *model).refused()
