"""One row of an index: which file it stands for, and how to tell that the file changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from mmfm.errors import DataError

# why: a file changed again within the clock tick of the build has the same size and time, so an
# entry this young is compared by its bytes next time (git calls such entries racily clean)
_YOUNG_NS = 2_000_000_000


@dataclass(frozen=True)
class Entry:
    """path: inside the indexed folder, with "/"; size in bytes; mtime_ns; sha256 of the bytes."""

    path: str
    size: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of_file(cls, folder: Path, path: str, known: Entry | None, known_at_ns: int) -> Entry:
        """The entry of a file now; reads its bytes only if `known` (seen then) does not settle it.

        Raises OSError when the file cannot be read.
        """
        stat = os.stat(folder / path)
        size, mtime_ns = stat.st_size, stat.st_mtime_ns
        if (
            known is not None
            and (known.size, known.mtime_ns) == (size, mtime_ns)
            and mtime_ns < known_at_ns - _YOUNG_NS
        ):
            return known
        return cls(path, size, mtime_ns, file_sha256(folder / path))


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_entries(path: Path, entries: Iterable[Entry]) -> None:
    """One JSON object per line, in row order."""
    with open(path, "w", encoding="ascii") as file:
        file.writelines(json.dumps(asdict(entry)) + "\n" for entry in entries)


def read_entries(path: Path) -> list[Entry]:
    """The inverse of `write_entries`. Raises DataError when a line is not an entry."""
    entries = []
    with open(path, encoding="ascii") as file:
        for number, line in enumerate(file, start=1):
            try:
                entries.append(Entry(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise DataError(f"Line {number} of {path} is not an index entry.") from error
    return entries
