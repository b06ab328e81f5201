"""A folder with a sub-folder of pictures for each label."""

import pytest
from PIL import Image

from mmfm.data.layouts.labelled import labelled_pictures
from mmfm.errors import DataError


def test_labels_are_the_folders_names_as_words(tmp_path):
    for folder in ("red_car", "tree"):
        (tmp_path / folder).mkdir()
        for number in range(2):
            Image.new("RGB", (8, 8)).save(tmp_path / folder / f"{number}.png")
    files, labels = labelled_pictures(tmp_path)
    assert labels == ["red car", "red car", "tree", "tree"]
    assert [file.split("/")[-2] for file in files] == ["red_car", "red_car", "tree", "tree"]


def test_pictures_without_labels_are_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    with pytest.raises(DataError, match="no sub-folder of pictures for each label"):
        labelled_pictures(tmp_path)
