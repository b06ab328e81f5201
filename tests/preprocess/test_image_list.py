"""What may be given as `images`, and which files of a folder are pictures."""

import io

import numpy as np
import pytest
from PIL import Image

from mmfm.errors import DataError, ImageError
from mmfm.preprocess.folder import list_images
from mmfm.preprocess.images import as_image_list, load_image


def test_folder_is_walked_sorted_without_hidden_or_other_files(tmp_path):
    names = ["b/2.JPG", "a.png", "b/1.webp", "b.gif", ".hidden/x.png", "b/.y.png", "notes.txt"]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert found == ["a.png", "b.gif", "b/1.webp", "b/2.JPG"]
    assert as_image_list(str(tmp_path)) == list_images(tmp_path)


def test_folders_without_pictures(tmp_path):
    with pytest.raises(DataError, match="missing"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match="No picture"):
        list_images(tmp_path)
    (tmp_path / "file.png").write_bytes(b"x")
    with pytest.raises(DataError, match="a file"):
        list_images(tmp_path / "file.png")


def test_every_kind_of_source_is_a_list():
    image = Image.new("RGB", (4, 4))
    array = np.zeros((4, 4, 3), np.uint8)
    assert as_image_list(image) == [image]
    assert as_image_list("a.png") == ["a.png"]
    assert as_image_list(b"bytes") == [b"bytes"]
    assert as_image_list(["a.png", image]) == ["a.png", image]
    assert as_image_list(name for name in "ab") == ["a", "b"]
    assert len(as_image_list(array)) == 1
    assert len(as_image_list(np.stack([array] * 3))) == 3
    file = io.BytesIO(b"x")
    assert as_image_list(file) == [file]


def test_nothing_is_refused_and_the_wrong_type_is_named():
    with pytest.raises(ImageError, match="empty list"):
        as_image_list([])
    with pytest.raises(ImageError, match="int"):
        load_image(as_image_list(3)[0])
