"""The wheel holds the package, its weights and its gallery, and works away from the checkout."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing stale is picked up and nothing is left behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in ("mmfm", "data_pipelines", "train", "tests"):
        shutil.copytree(
            ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", out, source], check=True)
    [path] = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def run_installed(wheel, tmp_path_factory):
    """Runs `python -m mmfm` in an empty folder, from the files of the wheel and no others."""
    site, empty = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)

    def python(*args):
        done = subprocess.run(
            [sys.executable, *map(str, args)],
            cwd=empty,
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(*args):
        return python("-m", "mmfm", *args)

    where = python("-c", "import mmfm; print(mmfm.__file__)").strip()
    assert Path(where).is_relative_to(site)
    run.site, run.folder = site, empty
    return run


def test_only_mmfm_is_installed(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"mmfm"}


def test_data_files_are_inside(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    data = [
        path
        for folder in ("weights", "gallery")
        for path in (ROOT / "mmfm" / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert {path.relative_to(ROOT).as_posix() for path in [*data, ROOT / "mmfm/py.typed"]} <= inside
    wanted = ("weights/mini/config.json", "gallery/captions.jsonl", "gallery/ATTRIBUTION.md",
              "evaluation/judge.safetensors")  # fmt: skip
    for name in wanted:
        assert f"mmfm/{name}" in inside


def test_the_shipped_model_works_from_the_wheel(run_installed):
    gallery = run_installed.site / "mmfm/gallery"
    picture = next(gallery.rglob("*.png"))
    assert "generate" in run_installed("--help")
    assert json.loads(run_installed("info", "--json"))
    hits = json.loads(run_installed("search", gallery, "a red heart", "-k", 3, "--json"))
    assert len(hits) == 3
    [captioned] = json.loads(run_installed("caption", picture, "--json"))
    assert captioned["captions"][0]
    run_installed("generate", "a red heart", "-o", "heart.png", "--steps", 2, "--seed", 0)
    assert (run_installed.folder / "heart.png").stat().st_size > 0
