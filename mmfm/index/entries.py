"""One picture of an index: which file it stands for, and how to tell that the file changed."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# why: a file changed again within the clock tick in which it was read has the same size and time,
# so the time of an entry this young is not kept (git calls such entries racily clean)
_YOUNG_NS = 2_000_000_000


@dataclass(frozen=True)
class Entry:
    """path: inside the indexed folder, with "/"; size in bytes; sha256 of the bytes; mtime_ns, or 0
    for a file so young when it was read that only its bytes can tell whether it changed since.
    """

    path: str
    size: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of_file(cls, folder: Path, path: str, known: Entry | None = None) -> Entry:
        """The entry of a file now; reads its bytes only if `known`, an earlier one, does not settle
        it. Raises OSError when the file cannot be read.
        """
        now_ns = time.time_ns()
        stat = os.stat(folder / path)
        size, mtime_ns = stat.st_size, stat.st_mtime_ns
        if mtime_ns >= now_ns - _YOUNG_NS:
            mtime_ns = 0
        elif known is not None and (known.size, known.mtime_ns) == (size, mtime_ns):
            return known
        return cls(path, size, mtime_ns, file_sha256(folder / path))

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, Any]) -> Entry:
        """The inverse of `as_metadata`."""
        return cls(*(metadata[name] for name in ("path", "size", "mtime_ns", "sha256")))

    def as_metadata(self) -> dict[str, Any]:
        return asdict(self)


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
