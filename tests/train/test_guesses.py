"""Guesses for a bundle that ships without: of training names alone."""

import json
import shutil

from click.testing import CliRunner

import mmfm
from mmfm.data import write_shards
from tests.train.test_captions import drawing
from train.captions import is_for_validation
from train.guesses import main


def test_a_bundle_gets_the_guesses_of_its_training_names(tiny_bundle, tmp_path):
    shards, bundle = tmp_path / "drawings", tmp_path / "bundle"
    samples = [drawing(number) for number in range(60)]
    write_shards(iter(samples), shards / "train")
    shutil.copytree(tiny_bundle, bundle)
    done = CliRunner().invoke(main, ["--data", str(shards), "--bundle", str(bundle)])
    assert done.exit_code == 0, done.output
    learned = sum(not is_for_validation(sample.meta) for sample in samples)
    assert f"of {learned} names" in done.output and learned < 60
    vocabulary = mmfm.load(bundle, device="cpu").vocabulary
    circle = vocabulary.encode("blue circle")
    assert vocabulary.guesses.after(circle[:-1], 1) == circle[-1:]
    assert "guesses.json" in json.loads((bundle / "manifest.json").read_text())["files"]
