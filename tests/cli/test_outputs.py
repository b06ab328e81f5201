"""Places to write are judged before the work."""

import pytest

from mmfm.cli.outputs import writable_file, writable_folder
from mmfm.errors import OutputError


def test_a_good_place_passes_and_is_left_alone(tmp_path):
    assert writable_file(tmp_path / "out.PNG", (".png",)) == tmp_path / "out.PNG"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("out", "must end in"),
        ("out.gif", "must end in .png or .jpg"),
        ("missing/out.png", "there is no folder"),
        ("file.png/out.png", "there is no folder"),
        ("folder.png", "is a folder"),
    ],
)
def test_a_bad_place_is_one_clear_sentence(tmp_path, name, word):
    (tmp_path / "file.png").touch()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match=word):
        writable_file(tmp_path / name, (".png", ".jpg"))


def test_folders_are_made_but_not_over_a_file(tmp_path):
    assert writable_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot make the folder"):
        writable_folder(tmp_path / "file")


def test_a_place_that_refuses_files_is_found_out_even_by_root():
    with pytest.raises(OutputError, match="cannot write into"):
        writable_file("/proc/out.png", (".png",))
