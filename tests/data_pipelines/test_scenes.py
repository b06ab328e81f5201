"""Scenes from shards of drawings: one split each, and the same bytes each time."""

import io
import json

import pytest
from PIL import Image, ImageDraw

from data_pipelines.scenes import build, main, usable
from mmfm.data import Sample, read_shards, write_shards


def drawing(number, called, **changes):
    image = Image.new("RGBA", (32, 32))
    ImageDraw.Draw(image).ellipse((4, 4, 28, 20 + number % 8), fill=("red", "blue")[number % 2])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    meta = {"name": called, "set": "noto", "skin_tone": None, "category": "objects", **changes}
    return Sample(f"{number:09d}", buffer.getvalue(), (meta["name"],), meta)


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawings")
    for split, names in (("train", ("apple", "ball", "cube")), ("test", ("dog", "cat", "emu"))):
        write_shards([drawing(n, name) for n, name in enumerate(names)], folder / split)
    return folder


def test_scenes_of_a_split_show_drawings_of_that_split(drawings, tmp_path):
    assert build(drawings, tmp_path, {"train": 30, "test": 9}) == {"train": 30, "test": 9}
    for split, names in (("train", {"apple", "ball", "cube"}), ("test", {"dog", "cat", "emu"})):
        samples = list(read_shards(tmp_path / split))
        assert {name for sample in samples for name in sample.meta["names"]} == names
        for sample in samples:
            image = Image.open(io.BytesIO(sample.image))
            assert (image.mode, image.size) == ("RGB", (32, 32))
            assert len(set(sample.meta["names"])) == len(sample.meta["places"])
            assert sample.captions[0] == sample.meta["name"]
            assert all(name in sample.captions[0] for name in sample.meta["names"])
    # test scenes are pairs; some training scenes have three things
    assert {len(s.meta["names"]) for s in read_shards(tmp_path / "test")} == {2}
    assert {len(s.meta["names"]) for s in read_shards(tmp_path / "train")} == {2, 3}


def test_the_same_options_give_the_same_bytes(drawings, tmp_path):
    for name in ("one", "two"):
        build(drawings, tmp_path / name, {"train": 5, "test": 2})
    for split in ("train", "test"):
        one, two = ((tmp_path / n / split / "00000.tar").read_bytes() for n in ("one", "two"))
        assert one == two


@pytest.mark.parametrize(
    "changes",
    [{"set": "mdi"}, {"skin_tone": "dark"}, {"category": "flags"}, {"name": "left fist"},
     {"name": "a name of many words"}],
)  # fmt: skip
def test_what_cannot_stand_beside_something_is_left_out(changes):
    assert usable(drawing(0, "apple"))
    assert not usable(drawing(0, "apple", **changes))


def test_the_command_says_what_it_wrote_and_what_is_wrong(drawings, tmp_path, capsys):
    out = tmp_path / "scenes"
    assert main([str(drawings), "-o", str(out), "--train", "3", "--test", "1"]) == 0
    assert "4 scenes" in capsys.readouterr().out
    assert json.loads((out / "manifest.json").read_text())["scenes"] == {"train": 3, "test": 1}
    write_shards([drawing(0, "apple")], tmp_path / "few" / "train")
    assert main([str(tmp_path / "few"), "-o", str(tmp_path / "o")]) == 2
    assert "3 names or more" in capsys.readouterr().err
