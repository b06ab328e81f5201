"""The gallery: test split only, distinct concepts, the same every time."""

import json
from pathlib import Path

from PIL import Image

from data_pipelines.drawing import split_of
from data_pipelines.drawings import build
from data_pipelines.gallery import choose, main, write_gallery
from mmfm.data import list_images, read_shards

SETS = "noto,flat-ui,fluent-color"
SHIPPED = Path(__file__).parents[2] / "mmfm" / "gallery"


def test_a_gallery_of_pictures_with_captions_and_credit(cache, tmp_path):
    build(tmp_path / "data", cache, sets=SETS, size=32, workers=1)
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    samples = list(read_shards(tmp_path / "data" / "train"))
    chosen = choose(samples, {"noto": 9, "flat-ui": 1})
    concepts = [sample.meta["concept"] for sample in chosen]
    assert len(set(concepts)) == len(concepts) and "flat-ui" in {s.meta["set"] for s in chosen}
    assert all(sample.meta["skin_tone"] is None for sample in chosen)
    assert choose(reversed(samples), {"noto": 9, "flat-ui": 1}) == chosen
    for _ in range(2):  # the second time in place of the first
        write_gallery(chosen, manifest["sets"], tmp_path / "gallery")
    lines = (tmp_path / "gallery" / "captions.jsonl").read_text().splitlines()
    images = list_images(tmp_path / "gallery")
    assert sorted(json.loads(line)["file_name"] for line in lines) == [p.name for p in images]
    with Image.open(images[0]) as image:
        assert (image.mode, image.getpixel((0, 0))) == ("RGB", (255, 255, 255))
    assert "put on white" in (tmp_path / "gallery" / "ATTRIBUTION.md").read_text()


def test_the_shipped_gallery_is_small_complete_and_never_trained_on():
    rows = [json.loads(line) for line in (SHIPPED / "captions.jsonl").read_text().splitlines()]
    assert sorted(row["file_name"] for row in rows) == [path.name for path in list_images(SHIPPED)]
    assert len(rows) == 240 and sum(p.stat().st_size for p in SHIPPED.iterdir()) < 1_500_000
    assert all({"text", "set", "license", "author"} <= row.keys() for row in rows)
    assert all(split_of(row["key"], row["text"]) == "test" for row in rows)


def test_no_shards_and_a_strange_output_are_one_sentence(tmp_path, capsys):
    assert main(["--data", str(tmp_path), "-o", str(tmp_path / "o")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
