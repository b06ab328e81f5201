"""Rows of numbers found by the content they were made of: safetensors files, whole or not there.

A file holds `rows` (N, ...) and `keys` (N, 32) uint8, the sha256 of what each row was made of. Its
name ends in a hash of the keys, so two writers of the same rows write the same file, and a file
of other rows never takes its place. Reading maps the file; nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from mmfm.durable import sync
from mmfm.errors import DataError, OutputError

KEY_BYTES = 32
SUFFIX = ".safetensors"
_ROOM = 4096  # bytes kept for the header, which is written last; the rows then start on a page
_STALE_SECONDS = 3600  # an unfinished file that nobody wrote to for so long has no writer
_DTYPES = {"F16": "<f2", "F32": "<f4", "U8": "u1", "I32": "<i4", "I64": "<i8"}
_NAMES = {np.dtype(numpy): name for name, numpy in _DTYPES.items()}


def content_key(data: bytes) -> str:
    """Hex sha256 of some bytes, such as an encoded picture."""
    return hashlib.sha256(data).hexdigest()


def as_keys(keys: Sequence[str] | np.ndarray) -> np.ndarray:
    """Hex keys, or rows of 32 bytes -> (N, 32) uint8. Raises DataError when they are no sha256."""
    if isinstance(keys, np.ndarray) and keys.dtype == np.uint8 and keys.shape[1:] == (KEY_BYTES,):
        return np.ascontiguousarray(keys)
    try:
        data = bytes.fromhex("".join(keys))
    except (TypeError, ValueError):
        data = b"?"
    if len(data) != KEY_BYTES * len(keys) or any(len(key) != 2 * KEY_BYTES for key in keys):
        raise DataError("Got keys that are not sha256; wanted 64 hex digits each, of the content.")
    return np.frombuffer(data, np.uint8).reshape(-1, KEY_BYTES)


def hex_keys(keys: np.ndarray) -> list[str]:
    """The inverse of `as_keys`."""
    return [row.tobytes().hex() for row in keys]


def read_arrays(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """(metadata, arrays, mapped and read-only) of a safetensors file.

    Raises DataError naming the file when it is cut short or not such a file.
    """
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = os.fstat(file.fileno()).st_size
            if not 0 < length <= size - 8:
                raise ValueError("it has no header")
            header = json.loads(file.read(length))
            metadata = header.pop("__metadata__", {})
            whole = np.memmap(file, np.uint8, mode="r")
        arrays = {}
        for name, tensor in header.items():
            start, end = tensor["data_offsets"]
            dtype, shape = np.dtype(_DTYPES[tensor["dtype"]]), tuple(tensor["shape"])
            if end - start != dtype.itemsize * math.prod(shape) or 8 + length + end > size:
                raise ValueError("it is cut short")
            arrays[name] = whole[8 + length + start : 8 + length + end].view(dtype).reshape(shape)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}); embed its shards again.") from error
    return metadata, arrays


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write a safetensors file of small arrays, whole or not at all.

    Raises OutputError when it cannot be written.
    """
    header: dict = {"__metadata__": metadata}
    offset = 0
    for name, array in arrays.items():
        header[name] = _entry(array.dtype, array.shape, offset)
        offset += array.nbytes
    with _NewFile(path.parent) as file:
        file.write(_packed(header))
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).tobytes())
        file.finish(path.name)


class RowWriter:
    """Streams rows to a new file; `count` rows so far. Made by `KeyedRows.writing`."""

    def __init__(self, file: _NewFile) -> None:
        self.count = 0
        self._file = file
        self._file.write(bytes(_ROOM))
        self._digest = hashlib.sha256()
        self._keys: list[np.ndarray] = []
        self._dtype: np.dtype | None = None
        self._shape: tuple[int, ...] = ()

    def add(self, keys: np.ndarray, rows: np.ndarray) -> None:
        """Append rows (n, ...) with their keys (n, 32); all rows have one type and shape.

        Raises OutputError when the disk is full.
        """
        if self._dtype is None:
            self._dtype, self._shape = rows.dtype, rows.shape[1:]
        if (rows.dtype, rows.shape[1:], len(rows)) != (self._dtype, self._shape, len(keys)):
            raise ValueError(
                f"got rows {rows.dtype} {rows.shape} after {self._dtype} {self._shape}"
            )
        data = np.ascontiguousarray(rows).tobytes()
        self._file.write(data)
        self._digest.update(data)
        self._keys.append(keys)
        self.count += len(rows)

    def finish(self, stem: str, metadata: dict[str, str]) -> None:
        """Write keys and header, and let the file appear."""
        assert self._dtype is not None  # rows were added
        keys = np.concatenate(self._keys)
        size = self.count * self._dtype.itemsize * math.prod(self._shape)
        header = {
            "__metadata__": {**metadata, "rows_sha256": self._digest.hexdigest()},
            "rows": _entry(self._dtype, (self.count, *self._shape), 0),
            "keys": _entry(keys.dtype, keys.shape, size),
        }
        self._file.write(keys.tobytes())
        self._file.write(_packed(header, _ROOM), at=0)
        self._file.finish(f"{stem}-{_name_of(keys)}{SUFFIX}")


class KeyedRows:
    """The rows of all files of one folder, by key.

    In memory: 16 bytes a row, sorted by the first 8 bytes of the key. Files that other processes
    add are seen after `refresh`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: dict[Path, str] = {}  # file -> why it cannot be used
        self._files: list[str] = []
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []  # sorted key starts, their places
        self._open = lru_cache(maxsize=128)(self._read)  # a process may hold 1,024 files
        self.refresh()

    def __reduce__(self):
        return KeyedRows, (self.folder,)

    def __len__(self) -> int:
        return sum(len(starts) for starts, _ in self._runs)

    @property
    def files(self) -> list[Path]:
        return [self.folder / name for name in self._files]

    def refresh(self) -> None:
        """Take in the files that came, forget the ones that went."""
        found = {p.name for p in self.folder.glob(f"[!.]*{SUFFIX}")}
        if not found.issuperset(self._files):
            self._files, self._runs = [], []
            self._open.cache_clear()
        self.damaged = {path: why for path, why in self.damaged.items() if path.name in found}
        for name in sorted(found.difference(self._files, (p.name for p in self.damaged))):
            try:
                keys = self._checked(name)["keys"]
            except DataError as error:
                self.damaged[self.folder / name] = str(error)
            else:
                self._files.append(name)
                self._take_in(keys, len(self._files) - 1)

    def has(self, keys: Sequence[str] | np.ndarray) -> np.ndarray:
        """(N,) bool: which keys have a row."""
        return self._find(as_keys(keys)) >= 0

    def get(self, keys: Sequence[str] | np.ndarray) -> np.ndarray:
        """(N, ...) rows in the order of the keys. Raises KeyError when one is missing."""
        places = self._find(as_keys(keys))
        if not len(places) or places.min() < 0:
            raise KeyError(f"{int((places < 0).sum())} of {len(places)} keys have no row")
        sample = self._open(int(places[0]) >> 32)["rows"]
        out = np.empty((len(places), *sample.shape[1:]), sample.dtype)
        for number, chosen, rows in _by_file(places):
            out[chosen] = self._open(number)["rows"][rows]
        return out

    @contextlib.contextmanager
    def writing(self, stem: str, metadata: dict[str, str]) -> Iterator[RowWriter]:
        """A writer whose file appears, synced to disk, when the block ends well and has rows."""
        with _NewFile(self.folder) as file:
            writer = RowWriter(file)
            yield writer
            if writer.count:
                writer.finish(stem, metadata)
        self.refresh()

    def check(self) -> dict[Path, str]:
        """Read every file to the end; the damaged ones, which are not used from then on."""
        for name in list(self._files):
            try:
                self._checked(name, rows_too=True)
            except DataError as error:
                self.damaged[self.folder / name] = str(error)
                self._files, self._runs = [], []
        self._open.cache_clear()
        self.refresh()
        return self.damaged

    def clear(self) -> None:
        """Delete what cannot be used: damaged files, and unfinished ones whose writer is gone."""
        for path in self.damaged:
            path.unlink(missing_ok=True)
        for path in self.folder.glob(f".*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()
        self.refresh()

    def _read(self, number: int) -> dict[str, np.ndarray]:
        return read_arrays(self.folder / self._files[number])[1]

    def _checked(self, name: str, rows_too: bool = False) -> dict[str, np.ndarray]:
        path = self.folder / name
        metadata, arrays = read_arrays(path)
        rows, keys = arrays.get("rows"), arrays.get("keys")
        right = (
            rows is not None
            and keys is not None
            and keys.shape == (len(rows), KEY_BYTES)
            and name.endswith(f"-{_name_of(keys)}{SUFFIX}")
            and (
                not rows_too or hashlib.sha256(rows.data).hexdigest() == metadata.get("rows_sha256")
            )
        )
        if not right:
            raise DataError(f"{path} is damaged (its hash is wrong); embed its shards again.")
        return arrays

    def _take_in(self, keys: np.ndarray, number: int) -> None:
        run = _starts(keys), (number << 32) + np.arange(len(keys))
        self._runs.append(_sorted(*run))
        # runs at least halve in size, so there are few, and a file costs little to take in
        while len(self._runs) > 1 and 2 * len(self._runs[-1][0]) >= len(self._runs[-2][0]):
            one, two = self._runs.pop(), self._runs.pop()
            self._runs.append(_sorted(*(np.concatenate(pair) for pair in zip(two, one))))

    def _find(self, keys: np.ndarray) -> np.ndarray:
        """(N,) int64: file number << 32 | row, or -1."""
        found = np.full(len(keys), -1, np.int64)
        wanted = _starts(keys)
        for starts, places in self._runs:
            at = np.searchsorted(starts, wanted)
            while True:  # more than once only where first 8 bytes are shared
                open_ = np.flatnonzero((found < 0) & (at < len(starts)))
                open_ = open_[starts[at[open_]] == wanted[open_]]
                if not len(open_):
                    break
                for number, chosen, rows in _by_file(places[at[open_]]):
                    equal = (self._open(number)["keys"][rows] == keys[open_[chosen]]).all(axis=1)
                    found[open_[chosen[equal]]] = (number << 32) + rows[equal]
                at[open_] += 1
        return found


def file_stem(name: str) -> str:
    """A shard's name as the beginning of a file name."""
    return re.sub(r"[^\w.-]", "_", Path(name).stem)[:64].lstrip(".") or "shard"


def _by_file(places: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(file number, which of the places are in it, their rows), file by file."""
    numbers = places >> 32
    order = np.argsort(numbers, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
        if len(part):
            yield int(numbers[part[0]]), part, places[part] & 0xFFFFFFFF


def _starts(keys: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(keys[:, :8]).view(">u8")[:, 0].astype(np.uint64)


def _sorted(starts: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(starts, kind="stable")  # stable: equal keys keep the order of their files
    return starts[order], places[order]


def _name_of(keys: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(keys).data).hexdigest()[:16]


def _entry(dtype: np.dtype, shape: tuple[int, ...], start: int) -> dict:
    end = start + dtype.itemsize * math.prod(shape)
    return {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}


def _packed(header: dict, room: int | None = None) -> bytes:
    """safetensors: length of the header (8 bytes), then JSON, padded with spaces."""
    text = json.dumps(header).encode()
    length = len(text) + -len(text) % 8 if room is None else room - 8
    if len(text) > length:
        raise ValueError(f"a header of {len(text)} bytes does not fit {length}")
    return length.to_bytes(8, "little") + text.ljust(length)


class _NewFile:
    """A file written under a passing name; `finish` gives it its own, leaving the block removes it.

    Raises OutputError when the folder or the disk does not take it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / f".{uuid.uuid4().hex}{SUFFIX}"
        with self._told():
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "wb")  # noqa: SIM115  closed on leaving the block

    def __enter__(self) -> _NewFile:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)

    def write(self, data: bytes, at: int | None = None) -> None:
        with self._told():
            if at is not None:
                self._file.seek(at)
            self._file.write(data)

    def finish(self, name: str) -> None:
        with self._told():
            self._file.flush()
            os.fsync(self._file.fileno())
            os.replace(self._path, self._folder / name)
            sync(self._folder)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(
                f"Cannot write into {self._folder}: {reason}; make room or choose another folder."
            ) from error
