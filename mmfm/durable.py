"""Files that are there whole or not at all, also after a crash: written aside, flushed, renamed."""

from __future__ import annotations

import glob
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file to write, which takes the place of `path` when the block ends without error.

    It is written beside `path` as `.NAME.PID-HEX`, flushed to the disk and renamed, and the folder
    is flushed too; on any error it is removed and `path` stays as it was. Raises OSError as the
    file system does.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        with open(aside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sweep(path: str | os.PathLike[str]) -> None:
    """Remove what killed processes left of `replacing(path)`; for files that only one writes."""
    path = Path(path)
    for aside in path.parent.glob(f".{glob.escape(path.name)}.*-*"):
        aside.unlink(missing_ok=True)


def sync(path: str | os.PathLike[str]) -> None:
    """Wait until a file, or the names in a folder, are on the disk and not in a cache."""
    if os.name == "nt" and os.path.isdir(path):
        return  # Windows has no handle of a folder to flush
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
