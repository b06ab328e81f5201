"""An index as a folder: written whole or not at all, read memory-mapped.

    INDEX/vectors.npy    float32 (N, D), unit rows, in the order of the entries
    INDEX/entries.jsonl  one Entry per row, sorted by path
    INDEX/index.json     version, model, backbone_hash, dim, count, folder, created_ns

A folder cannot replace another in one step, so the old index is first renamed to `.NAME.old`;
`settle` puts it back when a process died between the two renames.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mmfm.errors import DataError, OutputError
from mmfm.index.entries import Entry, read_entries, write_entries

VERSION = 1
_STALE_SECONDS = 24 * 3600  # an unfinished folder this old belongs to no running build


@dataclass(frozen=True, kw_only=True)
class Header:
    """What index.json says.

    folder: the indexed folder, absolute; folder_beside: the same, relative to the index's own
    folder, so that both can be moved together (None across drives).
    """

    version: int
    model: str
    backbone_hash: str
    dim: int
    count: int
    folder: str
    folder_beside: str | None
    created_ns: int  # when the entries were compared with the files, ns since 1970


@dataclass(frozen=True)
class Stored:
    """One index as read: vectors (N, D) float32, N entries, the header."""

    header: Header
    entries: list[Entry]
    vectors: np.ndarray


def read(path: Path) -> Stored:
    """Open an index; the vectors stay on disk (mmap).

    Raises DataError when there is none at `path`, or it is damaged or of another version.
    """
    path = _whole(path)
    try:
        fields = json.loads((path / "index.json").read_text(encoding="ascii"))
        if fields.get("version") != VERSION:
            raise DataError(
                f"The index {path} has version {fields.get('version')!r}, this mmfm reads "
                f"{VERSION}; build it again."
            )
        header = Header(**fields)
        entries = read_entries(path / "entries.jsonl")
        vectors = np.load(path / "vectors.npy", mmap_mode="r", allow_pickle=False)
    except DataError:
        raise
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"The index {path} is damaged ({error}); build it again.") from error
    wanted = (header.count, header.dim)
    if vectors.shape != wanted or vectors.dtype != np.float32 or len(entries) != header.count:
        raise DataError(
            f"The index {path} is damaged: {vectors.dtype} vectors {vectors.shape} and "
            f"{len(entries)} entries, wanted float32 {wanted}; build it again."
        )
    return Stored(header, entries, vectors)


def exists(path: Path) -> bool:
    """Is there an index (whole or damaged) at `path`, after a crash included?"""
    return (_whole(path, strict=False) / "index.json").is_file()


def write(path: Path, stored: Stored) -> None:
    """Put an index at `path`, replacing an older one only when the new one is safe on disk.

    Raises OutputError when it cannot be written there.
    """
    with room_for(path) as staging:
        fill(staging, stored)
        swap(staging, path)


@contextlib.contextmanager
def room_for(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` to write into; removed afterwards unless it was swapped in.

    Raises OutputError when `path` holds something that is not an index, or is not writable.
    """
    is_free = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    if not is_free and not (path / "index.json").is_file():
        raise OutputError(f"{path} exists and is not an index; give another place for it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        settle(path)
        staging = path.parent / f".{path.name}.new-{uuid.uuid4().hex}"
        staging.mkdir()
    except OSError as error:
        raise OutputError(f"Cannot write an index at {path}: {error.strerror}.") from error
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def fill(staging: Path, stored: Stored) -> None:
    """Write the three files and make sure that they are on the disk, not in a cache."""
    try:
        np.save(staging / "vectors.npy", np.ascontiguousarray(stored.vectors, dtype=np.float32))
        write_entries(staging / "entries.jsonl", stored.entries)
        text = json.dumps(asdict(stored.header), indent=1)
        (staging / "index.json").write_text(text, encoding="ascii")
        for file in (*staging.iterdir(), staging):
            _fsync(file)
    except OSError as error:
        raise OutputError(f"Cannot write an index at {staging}: {error.strerror}.") from error


def swap(staging: Path, path: Path) -> None:
    """Move the finished folder to `path`."""
    old = _old(path)
    try:
        if path.exists():
            os.rename(path, old)
        os.rename(staging, path)
        _fsync(path.parent)
    except OSError as error:
        settle(path)
        raise OutputError(f"Cannot write an index at {path}: {error.strerror}.") from error
    shutil.rmtree(old, ignore_errors=True)


def settle(path: Path) -> None:
    """Mend what a killed build left beside `path`: the old index set aside, unfinished folders."""
    old = _old(path)
    if old.exists():
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, path)
    for staging in path.parent.glob(f".{path.name}.new-*"):
        if time.time() - staging.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(staging, ignore_errors=True)


def _whole(path: Path, strict: bool = True) -> Path:
    """`path`, or the old index that a killed build set aside."""
    for place in (path, _old(path)):
        if (place / "index.json").is_file():
            return place
    if strict:
        what = "is not an index" if path.exists() else "does not exist"
        raise DataError(f"{path} {what}; make one with `mmfm index FOLDER -o INDEX`.")
    return path


def _old(path: Path) -> Path:
    return path.parent / f".{path.name}.old"


def _fsync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows has no handle of a folder to flush
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
