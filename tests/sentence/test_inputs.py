"""What `encode` takes for a text and what for a picture, by sentence-transformers' own rules."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mmfm.errors import ImageError, InputError, TextError
from mmfm.sentence.inputs import as_input, is_single


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (8, 8), "red").save(path)
    return path


def test_strings_pictures_and_arrays_are_told_apart_as_theirs(picture, tmp_path):
    infer = pytest.importorskip("sentence_transformers.base.modality").infer_modality
    (tmp_path / "notes.md").write_text("words")
    for value in (
        "a red square", "red.png", str(picture), str(tmp_path / "absent.png"),
        str(tmp_path / "notes.md"), "see https://example.org/a.png for more", "",
        "https://example.org/page", Image.open(picture), np.zeros((8, 8, 3), np.uint8),
        torch.zeros(3, 8, 8), {"text": "red"}, {"image": str(picture)},
    ):  # fmt: skip
        assert as_input(value).modality == infer(value)


def test_what_they_would_download_is_refused(picture):
    infer = pytest.importorskip("sentence_transformers.base.modality").infer_modality
    for value in (
        "https://example.org/a.png",
        "http://e.org/b.JPG?size=2",
        "data:image/png;base64,",
    ):
        assert infer(value) == "image"
        with pytest.raises(ImageError, match="modality='text'"):
            as_input(value)
        assert as_input(value, "text") == ("text", value)


def test_the_caller_can_settle_what_a_string_is(picture):
    assert as_input(str(picture), "text") == ("text", str(picture))
    assert as_input("absent.png", "image") == ("image", "absent.png")
    assert as_input({"text": str(picture)}) == ("text", str(picture))
    assert as_input({"image": "absent"}) == ("image", "absent")


def test_paths_bytes_and_files_are_pictures_too(picture):
    for value in (picture, picture.read_bytes(), io.BytesIO(picture.read_bytes())):
        assert as_input(value) == ("image", value)
        assert is_single(value)


def test_channels_may_stand_first(picture):
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    first = pixels.transpose(2, 0, 1)
    for value in (pixels, first, torch.from_numpy(first.copy())):
        assert np.array_equal(as_input(value).value, pixels)
    assert as_input(np.zeros((1, 6, 8))).value.shape == (6, 8)


def test_lists_hold_many_and_everything_else_is_one(picture):
    for many in ([], ["a"], ("a", "b"), np.array(["a", "b"]), np.array(["a", None], object)):
        assert not is_single(many)
    for one in ("a", picture, np.zeros((4, 4)), torch.zeros(3, 4, 4), {"text": "a"}, np.array("a")):
        assert is_single(one)


@pytest.mark.parametrize(
    "value",
    [{}, {"text": "a", "image": "b"}, {"audio": "a"}, {"role": "user", "content": "a"}, ["a", "b"],
     ("query", "document"), {"text": ["a"]}],
)  # fmt: skip
def test_what_is_neither_is_refused(value):
    with pytest.raises(InputError):
        as_input(value)


def test_a_picture_is_no_text_and_other_modalities_are_unknown(picture):
    with pytest.raises(TextError, match="wanted"):
        as_input(picture, "text")
    with pytest.raises(InputError, match="'audio'"):
        as_input("a", "audio")
    assert as_input("a\0.png").modality == "text"
