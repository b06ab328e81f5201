"""`mmfm index` and `mmfm search` beyond the plain case, on the tiny model."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmfm.index import Index

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def index(tiny, pictures, tmp_path):
    """The three drawings with a caption each, and a copy of one in a folder below."""
    (pictures / "below").mkdir()
    (pictures / "below" / "rouge.png").write_bytes((pictures / "red.png").read_bytes())
    rows = [f"{colour}.png,a {colour} egg,{year}" for year, colour in enumerate(("red", "green"))]
    (pictures / "captions.csv").write_text("\n".join(["file_name,text,year", *rows]))
    assert tiny("index", pictures, "-o", tmp_path / "index").code == 0
    return tmp_path / "index"


def names(done):
    return [Path(hit["path"]).stem for hit in done.document]


def test_search_by_a_vector_file_alone_and_beside_words(tiny, index, tmp_path):
    opened = Index.open(index)
    np.save(tmp_path / "v.npy", opened.vectors[1][None])
    found = tiny("search", index, "--vector", tmp_path / "v.npy", "-k", 1, "--json")
    assert found.document[0]["path"] == opened.paths[1]
    mixed = tiny("search", index, "an egg", "--vector", tmp_path / "v.npy", "--json").document
    assert mixed != tiny("search", index, "an egg", "--json").document
    np.save(tmp_path / "two.npy", opened.vectors[:2])
    np.save(tmp_path / "short.npy", opened.vectors[0][:5])
    np.save(tmp_path / "one.npy", np.float32(3))
    for name, told in (
        ("two", "single vector"),
        ("one", "single vector"),
        ("short", "shape"),
        ("none", "cannot read"),
    ):
        line = tiny("search", index, "--vector", tmp_path / f"{name}.npy").refused()
        assert told in line


def test_filters_duplicates_and_caption_scores(tiny, index, pictures):
    red = ("search", index, "--image", pictures / "red.png", "--json")
    assert names(tiny(*red))[:2] == ["rouge", "red"]
    assert "red" not in names(tiny(*red, "--dedupe", 0.9999))
    assert names(tiny(*red, "--where", "folder=below")) == ["rouge"]
    assert names(tiny(*red, "--where", "year>=1", "--where", "text=a green egg")) == ["green"]
    assert "NAME=VALUE" in tiny(*red, "--where", "year").refused()
    hits = tiny("search", index, "a red circle", "--rerank", 3, "--json").document
    scores = [hit.get("caption_score") for hit in hits]
    assert scores[:3] == sorted(scores[:3], reverse=True) and scores[3] is None
    assert "exactly one text" in tiny(*red, "--rerank", 3).refused()


def test_index_names_what_it_could_not_read_at_every_run(tiny, pictures, tmp_path):
    (pictures / "bad.png").write_bytes(b"<html>")
    (pictures / "metadata.jsonl").write_text("{")
    for _ in range(2):
        done = tiny("index", pictures, "-o", tmp_path / "index", "--json")
        assert [entry["path"] for entry in done.document["skipped"]] == ["bad.png"]
        assert "skipped bad.png" in done.err and "metadata.jsonl cannot be read" in done.err
        assert len(done.document["notes"]) == 1 and done.document["resumed"] == 0


def test_index_goes_on_after_a_kill_and_says_so(tiny, pictures, tmp_path, tiny_bundle):
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(pictures / f"{number}.png")
    command = ["index", str(pictures), "-o", str(tmp_path / "index"), "--model", str(tiny_bundle)]
    code = (
        "import os, signal, sys, mmfm.index.build as build; build.CHUNK = 8\n"
        "write, done = build.Build._write, []\n"
        "def counted(self, *rest):\n"
        "    write(self, *rest); done.append(1)\n"
        "    if len(done) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "build.Build._write = counted\n"
        f"from mmfm.cli import main; main({command!r})"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "not finished" in tiny("search", tmp_path / "index", "a").refused()
    done = tiny("index", pictures, "-o", tmp_path / "index", "--json")
    assert (done.document["resumed"], done.document["kept"]) == (24, 24)
    assert "went on after an interrupted run that had done 24 pictures" in done.err


@pytest.mark.parametrize("query", ["--vector", "--image"])
def test_known_vectors_and_pictures_are_found_without_torch(index, pictures, tmp_path, query):
    np.save(tmp_path / "v.npy", Index.open(index).vectors[0])
    source = tmp_path / "v.npy" if query == "--vector" else pictures / "green.png"
    code = (
        "import sys; from mmfm.cli import main; "
        f"code = main(['search', {str(index)!r}, {query!r}, {str(source)!r}, '--json']); "
        "loaded = {'torch', 'open_clip', 'PIL', 'timm'} & set(sys.modules); "
        "sys.exit(code or (f'loaded {loaded}' if loaded else 0))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["score"] == pytest.approx(1, abs=1e-5)


def test_the_rows_may_be_in_another_engine(tiny, pictures, tmp_path):
    url = f"faiss:{tmp_path / 'rows'}"
    made = tiny("index", pictures, "-o", tmp_path / "index", "--engine", url, "--json").document
    assert made["added"] == 3
    assert "engine" in tiny("search", tmp_path / "index", "a").refused()
    found = tiny("search", tmp_path / "index", "a red circle", "--engine", url, "--json")
    assert found.document == tiny("search", pictures, "a red circle", "--json").document
