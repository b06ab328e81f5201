"""Pictures that lie as plain files in a folder."""

from pathlib import Path

from mmfm.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def list_images(folder: str | Path) -> list[Path]:
    """Every picture file below `folder`, sorted by path.

    Files are known by their suffix (`IMAGE_SUFFIXES`, any case); hidden files and everything in
    hidden folders are left out. Raises DataError when there is no such folder or no picture in it.
    """
    folder = Path(folder)
    if not folder.exists():
        raise DataError(f"there is no folder {folder}; give the folder that holds the pictures")
    if not folder.is_dir():
        raise DataError(
            f"{folder} is a file, not a folder; give the folder that holds the pictures"
        )
    images = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]
    if not images:
        wanted = " ".join(IMAGE_SUFFIXES)
        raise DataError(f"{folder} holds no pictures; put files of these kinds into it: {wanted}")
    return sorted(images)
