"""A folder as it is found in life."""

import json

import pytest

from mmfm.errors import DataError
from mmfm.finetuning.pictures import faults, read_folder
from mmfm.preprocess.transform import Preprocess
from tests.finetuning.conftest import drawing, fill

PREPROCESS = Preprocess(image_size=32)


def test_bad_pictures_are_named_and_left_out(folder):
    (folder / "98.png").write_bytes(b"no picture")
    (folder / "98.txt").write_text("nothing")
    (folder / "99.png").write_bytes((folder / "03.png").read_bytes()[:60])
    (folder / "99.txt").write_text("half a picture")
    found, account = read_folder(folder, PREPROCESS)
    assert len(found) == 24
    assert account.num_bad == 2
    told = " ".join(faults(account))
    assert "98.png" in told and "99.png" in told


def test_copies_are_one_picture_with_the_captions_of_all(folder):
    (folder / "copy.png").write_bytes((folder / "05.png").read_bytes())
    (folder / "copy.txt").write_text("another caption")
    found, account = read_folder(folder, PREPROCESS)
    assert (len(found), account.num_duplicates) == (24, 1)
    assert ("a purple ellipse", "another caption") in found.captions


def test_class_folders_are_captions(tmp_path):
    for number in range(12):
        place = tmp_path / ("red_things" if number % 2 else "blue things")
        place.mkdir(exist_ok=True)
        drawing(number)[0].save(place / f"{number}.png")
    found, _ = read_folder(tmp_path, PREPROCESS)
    assert {said[0] for said in found.captions} == {"red things", "blue things"}


def test_pictures_without_captions_are_counted(tmp_path):
    found, account = read_folder(fill(tmp_path / "bare", captions=False), PREPROCESS)
    assert len(found) == account.num_captionless == 24
    assert not len(found.captioned())
    assert any("no caption" in line for line in faults(account))


def test_captions_in_another_language_are_told(tmp_path):
    folder = fill(tmp_path / "pictures", captions=False)
    rows = [{"file_name": f"{n:02d}.png", "text": "ein roter Kreis auf der Seite und ein Haus"}
            for n in range(24)]  # fmt: skip
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    _, account = read_folder(folder, PREPROCESS)
    assert any("language 'de'" in note for note in account.notes)


def test_too_few_pictures_are_refused_in_one_sentence(tmp_path):
    folder = fill(tmp_path / "few", range(5))
    with pytest.raises(DataError, match=r"5 different pictures.*at least 8"):
        read_folder(folder, PREPROCESS)


def test_a_folder_of_rubbish_is_refused(tmp_path):
    folder = fill(tmp_path / "pictures", range(10))
    for number in range(30):
        (folder / f"bad{number}.png").write_bytes(b"x")
        (folder / f"bad{number}.txt").write_text("x")
    with pytest.raises(DataError):
        read_folder(folder, PREPROCESS)
