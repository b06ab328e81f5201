"""The index of one shard: where every sample's members lie, so that any can be read at once.

A tar is scanned once (`scan`); the index is kept in a file of its own (`save`, `load`) that is
memory-mapped. That file: 8 bytes magic and version, 32 bytes SHA-256 of the header, 8 bytes its
length, the header (JSON), then arrays at multiples of 8 bytes, whose SHA-256 the header holds.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from mmfm.data.bad import SampleError
from mmfm.data.sample import EXTENSIONS, IMAGE_EXTENSIONS
from mmfm.data.tar.members import BLOCK, Member, Read, TarFault, walk
from mmfm.durable import replacing

MAGIC = b"mmfmTAR\x04"
MAX_MEMBER = 2**28  # bytes of one picture or text; what is larger is a mistake or an attack
SPOT = np.dtype([("offset", "<i8"), ("size", "<u4"), ("check", "<u4")])
ARRAYS: dict[str, np.dtype] = {"ends": np.dtype("<i8"), "keys": np.dtype("u1"), "spots": SPOT}
GAP = 2**16  # bytes between members of a sample that are read rather than jumped over


Spot = tuple[int, int, int]  # offset, size, check


class Fault(NamedTuple):
    """Why a sample, or the rest of the shard, is not in the index. key: the sample's, or that of
    the last whole one. text: what is wrong, without the shard's name. rest: the walk ended here."""

    cause: str
    key: str
    text: str
    rest: bool = False

    def error(self, shard: str) -> SampleError:
        return SampleError(f"{shard}: {self.text}", shard, self.key, self.cause)


@dataclass(frozen=True)
class TarIndex:
    """N samples with up to K members each.

    kinds: K extensions. ends: (N,) where each key ends in keys, UTF-8 bytes. spots: (N, K) offset
    and size of a member's data and the CRC-32 of its header; offset 0 when the sample has none.
    faults: what was left out. ignored: extensions that are not read, with a member of each.
    """

    kinds: tuple[str, ...]
    ends: np.ndarray
    keys: np.ndarray
    spots: np.ndarray
    faults: tuple[Fault, ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.ends)

    def key(self, place: int) -> str:
        start = int(self.ends[place - 1]) if place else 0
        return bytes(self.keys[start : int(self.ends[place])]).decode()

    def members(self, place: int) -> dict[str, Spot]:
        """Offset, size and header check of each member of a sample, by extension."""
        spots = self.spots[place].tolist()
        return {kind: spot for kind, spot in zip(self.kinds, spots, strict=True) if spot[0]}

    def digest(self) -> str:
        """SHA-256 of the samples: their keys, members, places and headers; not of the faults."""
        digest = hashlib.sha256(json.dumps(self.kinds).encode())
        for name in ARRAYS:
            array = _array(self, name)
            digest.update(f"{name}{array.shape}".encode())
            digest.update(array.tobytes() if array.size else b"")
        return digest.hexdigest()


def _split(name: str) -> tuple[str, str]:
    """Key and extension: up to and after the first dot of the last part; key "" for `.name`."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (folder + slash + stem if stem else ""), extension.lower()


class Grouping:
    """Puts the members of a shard together into samples, and notes what does not fit."""

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, Member]] = {}
        self.faults: dict[str, Fault] = {}  # by key, the first of each
        self.ignored: dict[str, str] = {}
        self.key: str | None = None

    def add(self, member: Member) -> str:
        """Take the next member and return its extension, "" when it is none of a sample's."""
        key, extension = _split(member.name)
        if not key or extension not in EXTENSIONS:
            self.ignored.setdefault(extension.rpartition(".")[2], member.name)
            return ""
        if key != self.key and key in self.groups:
            text = (
                f"the members of sample {key!r} are interleaved with those of {self.key!r};"
                " write the shard again with the members of a sample side by side"
            )
            self._fault("interleaved", key, text)
        self.key = key
        group = self.groups.setdefault(key, {})
        if extension in group:
            text = f"sample {key!r} has two .{extension} members; keep one"
            self._fault("duplicate", key, text)
        elif member.kind:
            text = f"member {member.name!r} is {member.kind}, not a file; write the shard again"
            self._fault("not-a-file", key, text)
        elif member.size > MAX_MEMBER:
            text = f"member {member.name!r} of sample {key!r} is {member.size} bytes long, at most"
            self._fault("too-large", key, f"{text} {MAX_MEMBER} are read")
        group[extension] = member
        return extension

    def finish(self, key: str) -> None:
        """All members of sample `key` were given."""
        num_images = sum(kind in IMAGE_EXTENSIONS for kind in self.groups[key])
        if num_images != 1:
            cause = "many-images" if num_images else "no-image"
            text = f"sample {key!r} has {num_images} pictures; it must have one"
            self._fault(cause, key, text)

    def end(self, fault: TarFault) -> Fault:
        """The walk ended early: drops the last sample unless it is surely whole."""
        last, cut = self.key, None if fault.inside is None else _split(fault.inside)[0]
        where = "at its start"
        if last is not None:
            others = [group for key, group in self.groups.items() if key != last]
            kinds = {kind for group in others for kind in group}
            whole = bool(others) and kinds <= set(self.groups[last]) if cut is None else cut > ""
            where = f"after sample {last!r}"
            if cut == last or not whole:
                cut = last
                del self.groups[last]
                self.faults.pop(last, None)
        if cut:
            where = f"inside sample {cut!r}"
        state = {"truncated": "cut off", "unreadable": "unreadable"}.get(fault.cause, "damaged")
        text = f"the shard is {state} {where}: it {fault}"
        if fault.cause != "compressed":
            text += "; fetch it again"
        return Fault(fault.cause, cut or last or "", text, rest=True)

    def _fault(self, cause: str, key: str, text: str) -> None:
        self.faults.setdefault(key, Fault(cause, key, text))


def scan(read: Read, size: int) -> TarIndex:
    """Index of a tar of `size` bytes, read through `read(offset, size)`; faults are noted in it."""
    grouping, stop = Grouping(), []
    try:
        for member in walk(read, size):
            grouping.add(member)
    except TarFault as fault:
        stop.append(grouping.end(fault))
    for key in grouping.groups:
        grouping.finish(key)
    good = {k: group for k, group in grouping.groups.items() if k not in grouping.faults}
    kinds = tuple(kind for kind in EXTENSIONS if any(kind in group for group in good.values()))
    none = (0, 0, 0)  # a kind that a sample lacks
    spots = [
        [group[kind][1:4] if kind in group else none for kind in kinds] for group in good.values()
    ]
    names = [key.encode() for key in good]
    return TarIndex(
        kinds=kinds,
        ends=np.cumsum([len(name) for name in names], dtype=np.int64),
        keys=np.frombuffer(b"".join(names), np.uint8),
        spots=np.array(spots, SPOT).reshape(len(good), len(kinds)),
        faults=(*grouping.faults.values(), *stop),
        ignored=tuple(grouping.ignored.items()),
    )


class IndexHeader(NamedTuple):
    """What the start of an index file tells, without its arrays."""

    size: int  # of the tar, bytes
    stamp: str  # of the tar: its time of change, or the store's own tag
    num_samples: int
    digest: str
    faults: tuple[Fault, ...]
    ignored: tuple[tuple[str, str], ...]
    kinds: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]


def save(index: TarIndex, path: Path, size: int, stamp: str) -> IndexHeader:
    """Write the index aside, then put it in place; size, stamp: of the tar. Raises OSError."""
    arrays = {name: _array(index, name) for name in ARRAYS}
    header = IndexHeader(
        size, stamp, len(index), index.digest(), index.faults, index.ignored, index.kinds,
        {name: array.shape for name, array in arrays.items()},
    )  # fmt: skip
    text = json.dumps(header._asdict()).encode()
    with replacing(path) as stream:
        stream.write(MAGIC + hashlib.sha256(text).digest() + len(text).to_bytes(8, "little"))
        stream.write(text)
        for array in arrays.values():
            stream.write(bytes(-stream.tell() % 8))
            stream.write(array.tobytes())
    return header


def peek(path: Path) -> IndexHeader | None:
    """Header of an index file; None when there is none that can be used."""
    try:
        with open(path, "rb") as stream:
            return _read_header(stream)
    except OSError:
        return None


def load(path: Path, verify: bool = True) -> tuple[IndexHeader, TarIndex] | None:
    """Header and index of a file, its arrays memory-mapped; None when missing or damaged.

    verify: compare the arrays with their hash, which reads all of them; the header always is.
    """
    try:
        with open(path, "rb") as stream:
            header, start = _read_header(stream), stream.tell()
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if header else b""
    except OSError:
        return None
    if header is None:
        return None
    arrays = {}
    for name, kind in ARRAYS.items():
        start += -start % 8
        shape = header.shapes[name]
        count = math.prod(shape)
        if start + count * kind.itemsize > len(mapped):
            return None
        arrays[name] = np.frombuffer(mapped, kind, count, start).reshape(shape)
        start += count * kind.itemsize
    index = TarIndex(kinds=header.kinds, faults=header.faults, ignored=header.ignored, **arrays)
    return (header, index) if not verify or index.digest() == header.digest else None


def _read_header(stream: BinaryIO) -> IndexHeader | None:
    """The header, verified; the stream then stands at its end."""
    start = stream.read(48)
    length = int.from_bytes(start[40:48], "little")
    if start[:8] != MAGIC or length > os.fstat(stream.fileno()).st_size:
        return None
    text = stream.read(length)
    if hashlib.sha256(text).digest() != start[8:40]:
        return None
    header = json.loads(text)
    header["faults"] = tuple(Fault(*fault) for fault in header["faults"])
    header["ignored"] = tuple(tuple(pair) for pair in header["ignored"])
    header["kinds"] = tuple(header["kinds"])
    header["shapes"] = {name: tuple(shape) for name, shape in header["shapes"].items()}
    return IndexHeader(**header)


def _array(index: TarIndex, name: str) -> np.ndarray:
    return np.ascontiguousarray(getattr(index, name), ARRAYS[name])


def read_members(read: Read, members: dict[str, Spot]) -> dict[str, bytes]:
    """Data of the members of one sample, each header compared with what the index saw.

    One read, unless the members lie far apart because of data that is not read. Raises TarFault
    "changed" when the tar is no longer what was indexed.
    """
    first = min(spot[0] for spot in members.values()) - BLOCK
    last = max(spot[0] + spot[1] for spot in members.values())
    if last - first > sum(spot[1] + BLOCK for spot in members.values()) + GAP:
        return {k: read_members(read, {k: spot})[k] for k, spot in members.items()}
    data = read(first, last - first)
    parts = {}
    for kind, (offset, size, check) in members.items():
        place = offset - first
        if len(data) < place + size or zlib.crc32(data[place - BLOCK : place]) != check:
            raise TarFault("changed", "is not what it was when it was indexed")
        parts[kind] = data[place : place + size]
    return parts
