"""A segment as files, mapped into memory and read as far as they are needed.

    NAME.vectors.npy       (N, D) float32
    NAME.ids.bin           ids, sorted (blobs.py)
    NAME.columns.bin       metadata (columns.py)
    NAME-HEX.removed.npy   removed rows, packed bits
    NAME.first.npz         short codes of all rows (first_pass.py)

A name is used once, so a file is whole and final from the moment a manifest names it.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import numpy as np

from mmfm.errors import DataError
from mmfm.index.blobs import Blobs
from mmfm.index.columns import Columns
from mmfm.index.first_pass import FirstPass
from mmfm.index.segment import Segment

_OURS = re.compile(
    r"[0-9a-f]{12}(-[0-9a-f]{8})?\.(vectors\.npy|ids\.bin|columns\.bin|removed\.npy|first\.npz)"
)


def is_ours(name: str) -> bool:
    """Whether a file of this name is part of a segment."""
    return _OURS.fullmatch(name) is not None


def write(folder: Path, segment: Segment) -> Segment:
    """Put on the disk what is not there yet; the same segment, mapped. Raises OSError."""
    files = dict(segment.files)
    name = _name_of(files) or _new_name()
    wanted: dict[str, Callable[[BinaryIO], object]] = {
        f"{name}.vectors.npy": lambda file: np.save(file, segment.vectors),
        f"{name}.ids.bin": lambda file: file.write(segment.ids.block),
        f"{name}.columns.bin": lambda file: file.write(segment.columns.block),
    }
    if (first := segment.first) is not None:
        wanted[f"{name}.first.npz"] = first.write
    if (removed := segment.removed) is not None and _file(files, ".removed.npy") is None:
        wanted[f"{name}-{uuid4().hex[:8]}.removed.npy"] = lambda file: np.save(
            file, np.packbits(removed)
        )
    missing = {file: put for file, put in wanted.items() if file not in files}
    for file, put in missing.items():
        files[file] = _written(folder / file, put)
    if not missing or not segment.files:
        return read(folder, files) if missing else segment
    kept = replace(segment, files=files)
    return read(folder, files) if first is not None else kept


def merge(folder: Path, parts: Sequence[Segment]) -> Segment:
    """The living rows of several as one new segment; vectors go from file to file."""
    name, shape = _new_name(), (sum(map(len, parts)), parts[0].vectors.shape[1])
    path = folder / f"{name}.vectors.npy"
    vectors = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    merged = Segment.merged(parts, vectors)
    vectors.flush()
    return write(folder, replace(merged, files={path.name: path.stat().st_size}))


def read(folder: Path, files: Mapping[str, int]) -> Segment:
    """Map the files of a segment, given with their sizes.

    Raises FileNotFoundError when one is missing, DataError when one has not its size or content.
    """
    for name, size in files.items():
        there = (folder / name).stat().st_size
        if there != size:
            raise DataError(f"{folder / name} has {there} bytes instead of {size}; build it again.")
    vectors, ids, columns, removed, first = (
        _file(files, suffix)
        for suffix in (".vectors.npy", ".ids.bin", ".columns.bin", ".removed.npy", ".first.npz")
    )
    if vectors is None or ids is None or columns is None:
        raise DataError(
            f"A segment of {folder} has only the files {sorted(files)}; build it again."
        )
    try:
        rows = np.load(folder / vectors, mmap_mode="r", allow_pickle=False)
        names = Blobs(_mapped(folder / ids))
        if rows.ndim != 2 or rows.dtype != np.float32 or len(names) != len(rows):
            raise ValueError(f"{rows.dtype} vectors {rows.shape} and {len(names)} ids")
        gone = None if removed is None else _bits(folder / removed, len(rows))
        coded = None if first is None else FirstPass(folder / first)
        told = Columns(len(rows), _mapped(folder / columns))
        return Segment(rows, names, told, gone, coded, dict(files))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"The index {folder} is damaged ({error}); build it again.") from error


def _written(path: Path, put: Callable[[BinaryIO], object]) -> int:
    with open(path, "xb") as file:
        put(file)
        file.flush()
        os.fsync(file.fileno())
    return path.stat().st_size


def _mapped(path: Path) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _bits(path: Path, count: int) -> np.ndarray:
    return np.unpackbits(np.load(path, allow_pickle=False), count=count).astype(bool)


def _file(files: Mapping[str, int], suffix: str) -> str | None:
    return next((name for name in files if name.endswith(suffix)), None)


def _name_of(files: Mapping[str, int]) -> str | None:
    return next((name.split(".")[0] for name in files if name.endswith(".vectors.npy")), None)


def _new_name() -> str:
    return uuid4().hex[:12]
