"""What the README, docs/data.md and docs/retrieval.md show, runs: `mmfm` lines, python blocks.

A block is left out when the line before it is `<!-- no-test -->`. Blocks run in order, in one
folder that holds the gallery as `pictures/`; python blocks share their names.
"""

import re
import shlex
import shutil
from pathlib import Path

import pytest

import mmfm
from mmfm.cli import main

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"(<!-- no-test -->\n)?^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language, page=README):
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [text for skip, kind, text in found if kind == language and not skip]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    path = tmp_path_factory.mktemp("desk")
    shutil.copytree(Path(mmfm.__file__).parent / "gallery", path / "pictures")
    shutil.copytree(README.parent / "train", path / "train")
    return path


def test_commands_run(desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    commands = [line for line in lines if line.startswith("mmfm ")]
    assert commands, "the README shows no mmfm command"
    for line in commands:
        code = main(shlex.split(line, comments=True)[1:])
        assert code == 0, f"{line}\n{capsys.readouterr().err}"


def test_python_runs(desk, monkeypatch):
    monkeypatch.chdir(desk)
    names = {}
    shown = blocks("python")
    assert shown, "the README shows no python"
    for text in shown:
        exec(compile(text, "README.md", "exec"), names)


def test_the_page_about_data_runs(desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    assert main(["data", "shard", "pictures", "-o", "shards"]) == 0
    shown = blocks("python", README.parent / "docs" / "data.md")
    assert shown, "docs/data.md shows no python"
    for text in shown:
        exec(compile(text, "docs/data.md", "exec"), {})


def test_the_page_about_search_runs(desk, monkeypatch):
    monkeypatch.chdir(desk)
    names = {}
    shown = blocks("python", README.parent / "docs" / "retrieval.md")
    assert shown, "docs/retrieval.md shows no python"
    for text in shown:
        exec(compile(text, "docs/retrieval.md", "exec"), names)
