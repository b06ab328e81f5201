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


@pytest.fixture(scope="module")
def awake_bundle(tiny_model, tmp_path_factory):
    """A model whose pictures differ, so that no frame of a strip is the one before."""
    return tiny_model.save_pretrained(tmp_path_factory.mktemp("awake") / "tiny")


@pytest.fixture
def awake(run, awake_bundle):
    return lambda *args: run(*args, "--model", awake_bundle, "--device", "cpu")


def test_a_way_to_another_text_is_a_sheet_and_a_strip(awake, tmp_path):
    done = awake("generate", "a tree", "--to", "a house", "-n", 3, "-o", tmp_path / "way.png",
                "--steps", 1, "--seed", 2, "--json")  # fmt: skip
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"way-0.png", "way-1.png", "way-2.png", "way-sheet.png", "way-strip.png"}
    assert done.document["to"] == "a house"
    with Image.open(done.document["strip"]) as strip:
        assert strip.n_frames == 4  # there and back
        assert strip.text["to"] == "a house"
    with Image.open(done.document["sheet"]) as sheet:
        assert sheet.width > 3 * 128


@pytest.mark.parametrize(
    ("suffix", "strip"), [(".webp", "way-strip.webp"), (".jpg", "way-strip.gif")]
)
def test_a_strip_moves_in_other_formats_too(awake, pictures, tmp_path, suffix, strip):
    out = tmp_path / f"way{suffix}"
    done = awake("generate", "a tree", "--to", pictures / "red.png", "-n", 3, "-o", out,
                "--steps", 1, "--seed", 2)  # fmt: skip
    assert done.code == 0, done.err
    with Image.open(tmp_path / strip) as moving:
        assert moving.n_frames == 4
        told = moving.info.get("comment") or moving.info["xmp"]
        assert b"trainedAlgorithmicMedia" in told


@pytest.mark.parametrize(
    "asked",
    [
        ["a tree"],
        [],
        ["--image", "red.png"],
        ["a tree", "--image", "red.png", "--image-guidance", 1.5],
        ["a tree", "--image", "red.png", "--strength", 0.5, "--sampler", "heun"],
        ["a tree", "--image", "red.png", "--mask", "green.png"],
        ["a tree", "--image", "red.png", "--outpaint", 0.25],
        ["a tree", "--width", 64, "--precision", "fp32"],
    ],
)
def test_every_port_has_its_options(tiny, pictures, tmp_path, asked, monkeypatch):
    monkeypatch.chdir(pictures)
    done = tiny("generate", *asked, "-o", tmp_path / "out.png", "--steps", 2, "--seed", 4, "--json")
    assert done.document["paths"] == [str(tmp_path / "out.png")]
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (64 if "--width" in asked else 32, 32)
        facts = image.text
    assert facts["seed"] == "4"
    assert facts.get("from_image") == ("red.png" if "--image" in asked else None)
    assert facts.get("mask") == ("green.png" if "--mask" in asked else None)
    assert facts.get("strength") == ("0.5" if "--strength" in asked else None)


def test_an_edit_says_what_it_was(tiny, pictures, tmp_path):
    out = tmp_path / "blue.png"
    done = tiny("edit", pictures / "red.png", "--from", "red", "--to", "blue", "-o", out,
                "--steps", 2, "--seed", 1, "--json")  # fmt: skip
    facts = done.document
    assert (facts["source"], facts["target"], facts["amount"]) == ("red", "blue", 0.5)
    with Image.open(out) as image:
        assert image.text["from_image"] == "red.png"


def test_a_preview_is_a_picture_and_is_whole(tiny, tmp_path):
    shown = tmp_path / "now.png"
    done = tiny("generate", "a tree", "-n", 2, "-o", tmp_path / "out.png", "--preview", shown,
                "--steps", 3, "--seed", 1)  # fmt: skip
    assert done.code == 0, done.err
    with Image.open(shown) as image:
        assert image.text["preview"] == "3 of 3"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["a tree", "--strength", 0.5], "--image"),
        (["a tree", "--mask", "red.png"], "--image"),
        (["--to", "a house"], "one place to begin"),
        (["a tree", "--image", "red.png", "--to", "a house"], "one place to begin"),
        (["a tree", "--image", "red.png", "--to", "x", "--strength", 0.5], "changes none"),
        (["a tree", "--image", "red.png", "--mask", "red.png", "--outpaint", 0.2], "own mask"),
        (["a tree", "--image", "none.png"], "none.png"),
    ],
)
def test_what_does_not_go_together_is_refused(tiny, pictures, tmp_path, asked, words, monkeypatch):
    monkeypatch.chdir(pictures)
    done = tiny("generate", *asked, "-o", tmp_path / "out.png", "--steps", 1)
    assert words in done.refused()


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
