"""A folder of pictures, and the command run as a person runs it."""

import json
from dataclasses import dataclass

import pytest
from PIL import Image, ImageDraw

from mmfm.cli import main


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def document(self):
        """stdout as the one JSON document that it must be."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    def refused(self):
        """Exit 2, nothing on stdout, one line on stderr; returns the line."""
        assert (self.code, self.out) == (2, ""), self
        [line] = self.err.splitlines()
        assert line.startswith("mmfm: error: "), line
        return line


@pytest.fixture
def run(capsys):
    """run(*args) -> Done, in this process."""

    def run(*args):
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def tiny(run, tiny_bundle):
    """run(*args) with the tiny model."""
    return lambda *args: run(*args, "--model", tiny_bundle, "--device", "cpu")


@pytest.fixture
def pictures(tmp_path):
    """Three PNG drawings in a folder: red, green, blue."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for colour in ("red", "green", "blue"):
        image = Image.new("RGB", (40, 48), "white")
        ImageDraw.Draw(image).ellipse((8, 8, 32, 40), fill=colour)
        image.save(folder / f"{colour}.png")
    return folder
