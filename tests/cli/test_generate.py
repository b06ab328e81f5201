"""`mmfm generate` and `mmfm demo` on the tiny model."""

import json

import pytest
from PIL import Image

from mmfm.cli import gallery


def test_a_picture_says_how_it_was_made(tiny, tmp_path):
    out = tmp_path / "tree.png"
    done = tiny(
        "generate", "a <tree>", "-o", out, "--steps", 2, "--guidance", 2.5, "--negative", "snow",
        "--seed", 7, "--json",
    )  # fmt: skip
    assert done.document["paths"] == [str(out)]
    with Image.open(out) as image:
        facts = image.text
        assert image.size == (32, 32)
    for key, value in {
        "prompt": "a <tree>", "negative_prompt": "snow", "seed": "7", "num_steps": "2",
        "guidance_scale": "2.5", "DigitalSourceType": "trainedAlgorithmicMedia",
    }.items():  # fmt: skip
        assert facts[key] == value
    assert facts["backbone"] == done.document["backbone"]
    assert facts["software"].startswith("mmfm ")
    assert "digitalsourcetype/trainedAlgorithmicMedia" in facts["XML:com.adobe.xmp"]


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_other_formats_carry_the_mark_too(tiny, tmp_path, suffix):
    out = tmp_path / f"tree{suffix}"
    assert tiny("generate", "a tree", "-o", out, "--steps", 1, "--seed", 0).code == 0
    with Image.open(out) as image:
        assert b"trainedAlgorithmicMedia" in image.info["xmp"]


def test_the_defaults_used_are_recorded(tiny, tmp_path):
    facts = tiny("generate", "a tree", "-o", tmp_path / "a.png", "--json").document
    assert facts["num_steps"] >= 1
    assert facts["guidance_scale"] >= 0


def test_several_pictures_and_their_sheet(tiny, tmp_path):
    done = tiny("generate", "a tree", "-n", 3, "-o", tmp_path / "out.png", "--steps", 1)
    assert done.code == 0
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {"out-0.png", "out-1.png", "out-2.png", "out-sheet.png"}
    assert len(done.out.splitlines()) == 3


def test_a_seed_drawn_at_random_is_told_and_repeats(tiny, tmp_path):
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    done = tiny("generate", "a tree", "-o", first, "--steps", 2, "--json")
    seed = done.document["seed"]
    assert f"--seed {seed}" in done.err
    tiny("generate", "a tree", "-o", again, "--steps", 2, "--seed", seed)
    with Image.open(first) as one, Image.open(again) as two:
        assert one.tobytes() == two.tobytes()


def test_the_demo_leaves_one_page_with_all_three_skills(tiny, tmp_path):
    folder = tmp_path / "demo"
    done = tiny("demo", "-o", folder, "--json")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert done.document["page"] == str(folder / "index.html")
    assert all(results[act] for act in ("search", "captions", "generated"))
    for name in ("search.png", "captions.png", "generated.png"):
        with Image.open(folder / name) as sheet:
            sheet.load()
    for record in results["generated"]:
        assert (folder / record["file"]).is_file()
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert 'src="http' not in page
    assert page.count("data:image/png") >= len(results["generated"])


def test_the_gallery_names_author_and_licence_of_every_drawing():
    drawings = gallery.read()
    assert len(drawings) >= 16
    assert gallery.attribution()
    for drawing in drawings:
        assert drawing.path.is_file()
        assert drawing.text
        assert drawing.license
        assert drawing.author
