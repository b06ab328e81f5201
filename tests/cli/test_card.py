"""`mmfm card` and `mmfm info`: what a bundle says of itself, through the door."""

import json
import subprocess
import sys

import pytest

import mmfm
from mmfm import card
from mmfm.papers import Papers


def test_the_card_of_a_bundle_and_of_what_ships(run, tiny_bundle, tmp_path):
    done = run("card", tiny_bundle)
    assert done.out == (tiny_bundle / "README.md").read_text()
    assert run("card", "--model", tiny_bundle).out == done.out
    assert "# mini" in run("card").out
    out = tmp_path / "card.md"
    assert run("card", tiny_bundle, "-o", out).out == f"{out}\n"
    assert out.read_text() == done.out


def test_the_card_as_json(run, tiny_bundle):
    found = run("card", tiny_bundle, "--json").document
    assert (found["model"], found["output"]) == ("tiny", None)
    assert found["markdown"] == (tiny_bundle / "README.md").read_text()
    assert found["front_matter"]["library_name"] == "mmfm"


def test_a_card_needs_no_torch():
    code = ("import sys; from mmfm.cli import main; assert main(['card', 'mini']) == 0; "
            "assert not {'torch', 'open_clip', 'diffusers'} & set(sys.modules)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", ["card", "info"])
def test_an_unknown_model_is_told(run, verb):
    assert "no-such" in run(verb, "no-such").refused()
    assert "one" in run(verb, "mini", "--model", "mini").refused()


def test_a_card_that_cannot_be_written_is_told(run, tmp_path):
    assert ".md" in run("card", "mini", "-o", tmp_path / "card.txt").refused()
    assert "missing" in run("card", "mini", "-o", tmp_path / "missing" / "card.md").refused()


def test_a_model_without_a_bundle_has_no_card(run):
    assert "save_pretrained" in run("card", "open_clip:ViT-B-32/random").refused()


def test_info_gives_everything_as_json(run, tiny_bundle):
    found = run("info", tiny_bundle, "--device", "cpu", "--json").document
    papers = Papers.read(tiny_bundle)
    said = mmfm.load(tiny_bundle, device="cpu").info()
    assert found == {**json.loads(json.dumps(said)), "licences": papers.licences,
                     "files": papers.files, "changed": []}  # fmt: skip


def test_info_reads_well(run, tiny_bundle):
    done = run("info", tiny_bundle)
    assert "as in the manifest" in done.out and "not recorded" in done.out
    shipped = run("info").out
    figures = Papers.read(mmfm.bundle.find("mini")).metrics["figures"]
    _, rows = card.figures_of(figures, card.FIGURES)
    for label, *cells in rows:
        line = next(one for one in shipped.splitlines() if one.strip().startswith(f"{label}  "))
        assert line.strip().removeprefix(label).split() == [
            w for cell in cells for w in cell.split()
        ]
    assert max(map(len, shipped.splitlines())) < 140
