"""One writer at a time."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmfm.errors import OutputError

NAME = "lock"


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """The folder, made where it is missing, is written by nobody else until the block ends.

    A killed writer's claim ends with it. Raises OutputError when another process or another thread
    writes to it, or the folder cannot be written; where the file system or the platform has no
    locks, nobody is kept out.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(f"Cannot write an index at {folder}: {error.strerror}.") from error
    try:
        if not _claim(handle):
            raise OutputError(
                f"Another process is writing to the index {folder}; wait for its end."
            )
        yield
    finally:
        os.close(handle)


def _claim(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        # why not lockf: it lets two writers of one process pass
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK)
    return True
