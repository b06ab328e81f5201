"""`mmfm classify` by words, by examples, and by a classifier kept in a file."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def examples(tmp_path):
    """Three squares of each of two colours, in sub-folders."""
    for colour in ("red", "dark_blue"):
        folder = tmp_path / "examples" / colour
        folder.mkdir(parents=True)
        for place in range(3):
            tone = np.array([200, 20, 20] if colour == "red" else [10, 10, 120]) + 9 * place
            Image.new("RGB", (32, 32), tuple(map(int, tone))).save(folder / f"{place}.png")
    return tmp_path / "examples"


def test_words_templates_and_synonyms(tiny, pictures, tmp_path):
    plain = tiny("classify", pictures, "--labels", "red,blue", "--json").document
    assert [set(one["scores"]) for one in plain] == [{"red", "blue"}] * 3
    (tmp_path / "mine.txt").write_text("{}\n")
    mine = tiny("classify", pictures, "--labels", "red,blue", "--templates", tmp_path / "mine.txt",
                "--json").document  # fmt: skip
    assert mine == plain
    several = tiny("classify", pictures, "--labels", "red|scarlet,blue", "--templates", "simple",
                   "--json").document  # fmt: skip
    assert set(several[0]["scores"]) == {"red", "blue"}
    assert several != plain


@pytest.mark.parametrize("how", [(), ("--method", "probe"), ("--method", "knn", "-k", 1)])
def test_examples_name_themselves(tiny, examples, how):
    files = sorted(examples.rglob("*.png"))
    found = tiny("classify", *files, "--examples", examples, *how, "--json").document
    for one in found:
        folder = one["path"].split("/")[-2]
        assert one["label"] == folder.replace("_", " ")
        assert sum(one["scores"].values()) == pytest.approx(1, abs=1e-4)


def test_a_kept_classifier_says_the_same_without_its_examples(tiny, examples, pictures, tmp_path):
    head = tmp_path / "head.safetensors"
    first = tiny("classify", pictures, "--examples", examples, "--save", head, "--json").document
    assert tiny("classify", pictures, "--head", head, "--json").document == first
    words = tiny("classify", pictures, "--labels", "red,blue", "--save", head, "--json").document
    assert tiny("classify", pictures, "--head", head, "--json").document == words


def test_examples_may_start_from_words(tiny, examples, pictures):
    labels = ("--labels", "red,dark blue,green")
    found = tiny("classify", pictures, "--examples", examples, *labels, "--json").document
    assert set(found[0]["scores"]) == {"red", "dark blue", "green"}
    refused = tiny("classify", pictures, "--examples", examples, "--labels", "red,blue").refused()
    assert "'dark blue'" in refused


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "--labels, --examples or --head"),
        (("--labels", "a,b", "--head", "x"), "a classifier already"),
        (("--labels", "a,b", "--method", "knn"), "--method is for --examples"),
        (("--labels", "a,b", "-k", "3"), "-k is for"),
        (("--labels", "a,b", "--templates", "nothing"), "'nothing'"),
        (("--head", "absent.safetensors"), "absent.safetensors"),
        (("--examples", "."), "sub-folder"),
    ],
)
def test_calls_that_contradict_themselves_are_refused(tiny, pictures, options, told, monkeypatch):
    monkeypatch.chdir(pictures)
    assert told in tiny("classify", pictures, *options).refused()


def test_a_classifier_of_another_model_is_refused(run, tiny, pictures, tmp_path):
    head = tmp_path / "head.safetensors"
    assert tiny("classify", pictures, "--labels", "red,blue", "--save", head).code == 0
    assert "not made with" in run("classify", pictures, "--head", head, "--model", "mini").refused()
