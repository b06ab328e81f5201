"""One run a folder."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from mmfm.errors import OutputError
from mmfm.training.distributed import World


@contextmanager
def claimed(folder: Path, world: World) -> Iterator[None]:
    """The folder belongs to this run until it ends, by whatever end.

    Raises OutputError when another run has it, for two would destroy each other's checkpoints;
    where the file system or the platform has no locks, nobody is kept out.
    """
    stream, refusal = None, None
    if world.first:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stream = (folder / ".lock").open("a")
            _lock(stream)
        except BlockingIOError:
            refusal = f"another run is writing to {folder}; wait for its end, or choose another"
        except OSError as error:
            refusal = f"{folder} cannot be written to ({error.strerror}); choose another folder"
    try:
        for told in filter(None, world.gather(refusal)):
            raise OutputError(told)
        yield
    finally:
        if stream is not None:
            stream.close()


def _lock(stream: TextIO) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        # why not flock: its locks would live on in loader processes that outlive a killed run
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise BlockingIOError from error
