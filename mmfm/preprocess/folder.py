"""Which files of a folder are pictures."""

from __future__ import annotations

import os
from pathlib import Path

from mmfm.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Every picture below `folder`, by suffix, sorted by its path inside the folder.

    Hidden files and folders (a leading dot) are skipped and links to folders are not followed.
    Raises DataError when the folder is missing, unreadable, or holds no picture.
    """
    root = Path(folder)
    if not root.is_dir():
        what = "a file" if root.exists() else "missing"
        raise DataError(f"Wanted a folder of pictures but {root} is {what}; give a folder.")
    found: list[tuple[str, Path]] = []
    for parent, folders, files in os.walk(root, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES):
                path = Path(parent, name)
                found.append((path.relative_to(root).as_posix(), path))
    if not found:
        raise DataError(
            f"No picture in {root}; wanted files ending in {', '.join(IMAGE_SUFFIXES)}, "
            "hidden ones not counted."
        )
    return [path for _, path in sorted(found)]


def _refuse(error: OSError) -> None:
    raise DataError(f"Cannot list the folder {error.filename}: {error.strerror}.") from error
