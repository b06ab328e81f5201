"""A safetensors file through numpy alone: memory-mapped, so that only what is used is read."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmfm.errors import ModelError

_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "<i1", "U8": "<u1", "BOOL": "?",
}  # fmt: skip  # numpy has no bfloat16: its bits are the upper half of a float32's
_LONGEST_HEADER = 100_000_000  # bytes, as in the format's own reader


class TensorFile:
    """Tensors of one file by name, as float32 arrays; those stored as float32 are not copied.

    Raises ModelError when the file is missing or damaged, or has a type that numpy cannot read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                self.stat = os.fstat(file.fileno())  # of what is mapped, whatever the name becomes
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            length = int.from_bytes(self._map[:8], "little")
            if not 0 < length <= min(_LONGEST_HEADER, len(self._map) - 8):
                raise ValueError("it has no header")
            header = json.loads(self._map[8 : 8 + length])
            header.pop("__metadata__", None)
            self._places = {name: self._checked(told, 8 + length) for name, told in header.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{path} cannot be read ({error}); copy the model again") from error

    def _checked(self, told: dict, data: int) -> tuple[str, tuple[int, ...], int]:
        """What the header says of one tensor -> its type, shape and place in the file."""
        kind, shape, (start, stop) = told["dtype"], tuple(told["shape"]), told["data_offsets"]
        if kind not in _TYPES:
            raise ValueError(f"it has tensors of type {kind}")
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(_TYPES[kind]).itemsize
        if not 0 <= start <= stop <= len(self._map) - data or stop - start != size:
            raise ValueError("it is shorter than it says")
        return kind, shape, data + start

    def names(self) -> list[str]:
        """Of every tensor, sorted."""
        return sorted(self._places)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """None when there is no such tensor."""
        return self._places[name][1] if name in self._places else None

    def __getitem__(self, name: str) -> np.ndarray:
        return _widened(*self._stored(name))

    def rows(self, name: str, rows: Sequence[int]) -> np.ndarray:
        """Some rows of a tensor; the others are not read."""
        kind, stored = self._stored(name)
        return _widened(kind, stored[list(rows)])

    def _stored(self, name: str) -> tuple[str, np.ndarray]:
        kind, shape, start = self._places[name]
        count = int(np.prod(shape, dtype=np.int64))
        flat = np.frombuffer(self._map, _TYPES[kind], count, start) if count else np.empty(0)
        return kind, flat.reshape(shape)


def _widened(kind: str, stored: np.ndarray) -> np.ndarray:
    if kind == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32, copy=False)
