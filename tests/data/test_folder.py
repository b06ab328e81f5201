"""Listing the pictures of a folder."""

import pytest

from mmfm.data import list_images
from mmfm.errors import DataError


def test_pictures_are_found_below_sorted_and_hidden_files_skipped(tmp_path):
    names = ["b.PNG", "a.jpeg", "sub/c.webp", ".hidden.png", ".cache/d.png", "note.txt", "e.tiff"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    found = [str(path.relative_to(tmp_path)) for path in list_images(tmp_path)]
    assert found == ["a.jpeg", "b.PNG", "e.tiff", "sub/c.webp"]


def test_a_hidden_parent_does_not_hide_the_folder(tmp_path):
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "a.png").touch()
    assert len(list_images(tmp_path / ".data")) == 1


def test_missing_empty_and_no_folder(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no pictures"):
        list_images(tmp_path)
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match="not a folder"):
        list_images(tmp_path / "a.png")
