"""Pictures in sub-folders named by label: what classifiers learn from and are measured on."""

from __future__ import annotations

from pathlib import Path

from mmfm.data.layouts.pictures import are_classes
from mmfm.data.layouts.words import class_words
from mmfm.errors import DataError
from mmfm.preprocess.folder import list_images


def labelled_pictures(folder: str | Path) -> tuple[list[str], list[str]]:
    """Paths of all pictures, sorted, and the label of each: its folder's name as words.

    Raises DataError when the folder has no such sub-folders, or cannot be read.
    """
    files = list_images(folder)
    if not are_classes(Path(folder), files):
        raise DataError(
            f"{folder} has no sub-folder of pictures for each label; sort the pictures into "
            "folders named by label"
        )
    return [str(file) for file in files], [class_words(file.parent.name) for file in files]
