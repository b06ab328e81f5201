"""An open tar, local or remote: its size, a stamp that changes when it is replaced, its bytes."""

from __future__ import annotations

import os
from typing import Protocol

from mmfm.data.bad import SampleError
from mmfm.data.remote import ReadAhead, RemoteTar, is_remote
from mmfm.data.tar.members import Read


class Tar(Protocol):
    size: int
    stamp: str

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`, fewer only at the end of the tar."""


class LocalTar:
    """A tar on a disk, read by position, so that processes and threads can share it.

    `pread` rather than a memory map: a disk that fails, or a file cut while it is open, gives an
    error that can be counted, where a map would kill the process.
    """

    def __init__(self, path: str) -> None:
        """Raises SampleError "missing-shard" or "unreadable"."""
        self.path = path
        try:
            self._file = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            found = os.fstat(self._file)
        except FileNotFoundError as error:
            raise SampleError(f"{path} is missing", path, cause="missing-shard") from error
        except OSError as error:
            raise self._unreadable(error) from error
        self.size, self.stamp = found.st_size, str(found.st_mtime_ns)

    def read(self, offset: int, size: int) -> bytes:
        try:
            data = os.pread(self._file, size, offset)
            while len(data) < size:  # the system gives less than 2 GiB at once
                more = os.pread(self._file, size - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise self._unreadable(error) from error
        return data

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def _unreadable(self, error: OSError) -> SampleError:
        text = f"{self.path} cannot be read: {error.strerror}"
        return SampleError(text, self.path, cause="unreadable")


def open_tar(shard: str) -> Tar:
    """The tar at a path or URL. Raises SampleError."""
    return RemoteTar(shard) if is_remote(shard) else LocalTar(shard)


def forward(tar: Tar) -> Read:
    """The tar's `read` for a walk from its start to its end."""
    return ReadAhead(tar.read) if isinstance(tar, RemoteTar) else tar.read
