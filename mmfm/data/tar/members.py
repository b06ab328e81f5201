"""The members of a tar file, from its 512-byte headers alone; data is passed over.

Format: POSIX.1-2017 "pax", ustar and GNU (https://www.gnu.org/software/tar/manual/html_node/
Standard.html). Every header's checksum is verified, and the end must be as tar writes it, so a
tar that was cut, joined, or overwritten does not pass for a shorter one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

BLOCK = 512
ZEROS = bytes(BLOCK)
MAX_PADDING = 2**20  # zeros after the end mark; more are a download that stopped half way
MAX_NAME = 2**16  # bytes of a long name or pax header

FILE_TYPES = (b"0", b"\0", b"7")
NO_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")
PAX, PAX_GLOBAL, LONG_NAME, LONG_LINK, FOLDER = b"x", b"g", b"L", b"K", b"5"
EXTENSIONS = (PAX, PAX_GLOBAL, LONG_NAME, LONG_LINK)  # they describe the next member
OTHER_TYPES = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device",
    b"6": "a pipe", b"S": "a sparse file", b"M": "part of a file", b"V": "a volume label",
    b"D": "a folder dump",
}  # fmt: skip

Read = Callable[[int, int], bytes]  # (offset, size) -> bytes, shorter only at the end of the tar


class Member(NamedTuple):
    """One file of a tar: its data is `size` bytes at `offset`; `check` is the CRC-32 of the header
    block before it. kind: "" for a plain file, or what it is instead, in words."""

    name: str
    offset: int
    size: int
    check: int
    kind: str = ""


class TarFault(Exception):
    """Where the walk ended before the tar did. inside: the member that was cut, if any."""

    def __init__(self, cause: str, message: str, inside: str | None = None) -> None:
        super().__init__(message)
        self.cause = cause
        self.inside = inside


def walk(read: Read, size: int | None = None) -> Iterator[Member]:
    """Members in order. size: bytes of the tar, None when not known (a stream).

    Folders are passed over. Raises TarFault with cause "empty", "truncated", "damaged" or
    "compressed"; all members given before are whole (for a stream: if their data could be read).
    """
    offset, renamed, resized = 0, None, None
    while True:
        block = read(offset, BLOCK)
        if len(block) < BLOCK:
            _refuse_start(offset, block)
            raise TarFault("truncated", "has no end mark")
        if block == ZEROS:
            return _expect_end(read, offset)
        if not _checksum_holds(block):
            _refuse_start(offset, block)
            raise TarFault("damaged", f"has no valid header at byte {offset}")
        name, length, kind = _name(block), _number(block[124:136]), block[156:157]
        data = offset + BLOCK
        if kind in EXTENSIONS:
            text = _extension(read, name, data, length)
            if kind == LONG_NAME:
                renamed = _text(text.rstrip(b"\0"))
            elif kind != LONG_LINK:
                path, new_size = _pax(name, text, kind == PAX_GLOBAL)
                renamed, resized = path or renamed, new_size if new_size is not None else resized
            offset = data + _padded(length)
            continue
        name, length = renamed or name, length if resized is None else resized
        renamed = resized = None
        if kind in NO_DATA:  # whatever their header says
            length = 0
        if size is not None and data + length > size:
            raise TarFault("truncated", "ends inside a member", name.removeprefix("./"))
        if kind != FOLDER and not name.endswith("/"):
            strange = "" if kind in FILE_TYPES else OTHER_TYPES.get(kind, f"of type {kind!r}")
            yield Member(name.removeprefix("./"), data, length, zlib.crc32(block), strange)
        offset = data + _padded(length)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _refuse_start(offset: int, block: bytes) -> None:
    if offset == 0 and not block:
        raise TarFault("empty", "has no bytes at all")
    if offset == 0 and block[:6].startswith(
        (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
    ):
        raise TarFault(
            "compressed", "is compressed, which allows no random access: unpack it first"
        )


def _checksum_holds(block: bytes) -> bool:
    """Whether the header's bytes, those of the sum itself as spaces, add up to it.

    Adler-32's low half is that sum plus one, modulo 65521, and 15 times faster than `sum`.
    """
    others = block[:148] + b"        " + block[156:]
    try:
        wanted = _number(block[148:156])
    except TarFault:
        return False
    if zlib.adler32(others) & 0xFFFF == (wanted + 1) % 65521:
        return True
    # tars of some old Unix systems add signed bytes
    return sum(others) - 256 * sum(byte > 127 for byte in others) == wanted


def _number(field: bytes) -> int:
    """Octal text, or base 256 when the first bit is set (GNU, for more than 8 GiB)."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.partition(b"\0")[0].strip()
    if text.isdigit() and not text.strip(b"01234567"):
        return int(text, 8)
    if text:
        raise TarFault("damaged", f"has a header with the number {field!r}")
    return 0


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _name(block: bytes) -> str:
    name = block[:100].partition(b"\0")[0]
    if block[345] and block[257:263] == b"ustar\0":
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    return _text(name)


def _extension(read: Read, name: str, offset: int, size: int) -> bytes:
    """Data of a header that describes the next member."""
    if size > MAX_NAME:
        raise TarFault("damaged", f"has a name or pax header of {size} bytes before {name!r}")
    text = read(offset, size)
    if len(text) < size:
        raise TarFault("truncated", "ends inside a pax header")
    return text


def _pax(name: str, text: bytes, is_global: bool) -> tuple[str | None, int | None]:
    """Path and size that a pax header gives the next member, None for what it does not give."""
    path, size = None, None
    while text.strip(b"\0"):
        digits, _, _ = text.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        record = text[len(digits) + 1 : length]
        key, equals, value = record[:-1].partition(b"=")
        if length > len(text) or record[-1:] != b"\n" or not equals:
            raise TarFault("damaged", f"has a pax header that cannot be read, {name!r}")
        if key.startswith(b"GNU.sparse") or (is_global and key in (b"path", b"size")):
            raise TarFault("damaged", f"has a pax header with {_text(key)}, {name!r}")
        if key == b"path":
            path = _text(value)
        elif key == b"size":
            if not value.isdigit():
                raise TarFault("damaged", f"has a pax header with a wrong size, {name!r}")
            size = int(value)
        text = text[length:]
    return path, size


def _expect_end(read: Read, offset: int) -> None:
    """After the first block of zeros there are only zeros, at least one block and not too many."""
    rest, num_zeros = read(offset + BLOCK, 2**16), BLOCK
    if len(rest) < BLOCK:
        raise TarFault("truncated", "has half an end mark")
    while rest:
        if rest.strip(b"\0"):
            raise TarFault(
                "damaged", "goes on after its end mark, as when tars are joined: unpack both"
            )
        num_zeros += len(rest)
        if num_zeros > MAX_PADDING:
            raise TarFault("truncated", "ends in zeros, as when a download stops", "")
        rest = read(offset + num_zeros, 2**16)
