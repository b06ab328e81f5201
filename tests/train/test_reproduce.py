"""`make reproduce-mini`, the whole path to a bundle, on 400 drawings and for a few steps."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

import mmfm
from mmfm.data import Sample, write_shards
from mmfm.papers import Papers
from train.mini_recipe import TRAINED

ROOT = Path(__file__).parents[2]
SPLITS = {"train": 340, "test": 40, "unseen": 20}
SHORT = (
    "towers.num_steps=3 towers.log_every=1 flow.num_steps=3 flow.log_every=1 refine.num_steps=2 "
    "refine.log_every=1 few_steps.num_steps=2 few_steps.log_every=1 batch_size=16 "
    "flow_batch_size=8 refine_batch_size=8 few_steps_batch_size=4 pixels.num_steps=2 "
    "pixels.log_every=1 pixels_batch_size=8 matching.num_steps=2 matching.log_every=1"
)
SHORT_CAPTIONS = "loop.num_steps=2 loop.log_every=1 loop.precision=fp32 views=2 copies=20"


def drawing(split, number):
    colour = ("red", "green", "blue", "orange", "black")[number % 5]
    shape = ("circle", "square")[number // 5 % 2]
    image = Image.new("RGBA", (64, 64))
    box = (8, 8, 40 + number % 16, 56)
    pen = ImageDraw.Draw(image)
    (pen.ellipse if shape == "circle" else pen.rectangle)(box, fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    name = f"{colour} {shape}"
    meta = {
        "key": f"noto:{split}-{number}", "name": name, "concept": name, "set": "noto",
        "style": "noto emoji", "category": "objects", "keywords": [colour, "flat"],
        "source": "here", "license": "CC0-1.0", "author": "nobody", "skin_tone": None,
    }  # fmt: skip
    return Sample(f"{number:09d}", buffer.getvalue(), (name, f"a noto emoji of {name}"), meta)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_goes_the_whole_way(tmp_path):
    data, runs = tmp_path / "drawings", tmp_path / "runs"
    for split, count in SPLITS.items():
        write_shards([drawing(split, number) for number in range(count)], data / split)
    manifest = {"archives_sha256": {"here-1.0": "ab"}, "sets": {"noto": {"license": "CC0-1.0"}}}
    (data / "manifest.json").write_text(json.dumps(manifest))
    (data / "ATTRIBUTION.md").write_text("Circles: nobody, CC0-1.0.\n")
    tools = Path(sys.executable).parent  # -o: this environment is installed already
    done = subprocess.run(
        ["make", "reproduce-mini", "-o", ".venv/.installed-dev", f"BIN={tools}", f"DATA={data}",
         f"RUNS={runs}", f"SETTINGS={SHORT}", f"CAPTION_SETTINGS={SHORT_CAPTIONS}",
         f"SCENES={tmp_path / 'scenes'}", "SCENE_SETTINGS=--train 12 --test 2", "MEASURE=--quick"],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "data_pipelines.drawings" not in done.stdout  # they were there
    assert "data_pipelines.scenes" in done.stdout
    papers = Papers.read(runs / "mini" / "bundle")
    stages = [stage["name"] for stage in papers.compute["training"]["stages"]]
    assert stages == [*TRAINED, "head"]
    assert papers.compute["energy"]["kwh"][0] > 0
    assert papers.changed == []
    card = (runs / "mini" / "card.md").read_text()
    assert card == (runs / "mini" / "bundle" / "README.md").read_text()
    assert "| drawings | 40 | 20 | 40 |" in card and "here-1.0" in card
    model = mmfm.load(runs / "mini" / "bundle", device="cpu")
    assert model.info()["skills"] == ["search", "caption", "generate"]
