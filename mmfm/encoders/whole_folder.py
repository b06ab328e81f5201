"""A folder of results that is there whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmfm.durable import sync
from mmfm.errors import OutputError


@contextmanager
def whole_folder(folder: Path, mark: str | None = None) -> Iterator[Path]:
    """A folder to fill, which takes the place of `folder` when the block ends without error.

    A folder that is there must be empty, or have been written by us before, which its file `mark`
    shows. Raises OutputError when it holds something else or cannot be written.
    """
    ours = mark is not None and (folder / mark).is_file()
    if folder.exists() and not (folder.is_dir() and (ours or not any(folder.iterdir()))):
        raise OutputError(f"'{folder}' exists and is not empty; choose another folder")
    aside = folder.with_name(f".{folder.name}.unfinished-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        aside.mkdir(parents=True)
        yield aside
        for path in aside.iterdir():
            sync(path)
        sync(aside)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(aside, folder)
        sync(folder.parent)
    except OSError as error:
        raise OutputError(
            f"cannot write '{folder}' ({error.strerror}); choose another folder"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
