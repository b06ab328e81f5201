"""What a file may ask for, looked at before Pillow reads it: memory and time stay bounded.

Pillow checks how many pixels there are, and some of the ways in which a small file can cost much.
The others are here. An honest file passes whatever camera or program made it; what a format calls
for and these checks do not know is left to Pillow.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from mmfm.errors import ImageError

MAX_PIXELS = 64_000_000  # width * height
MAX_SEGMENTS = 4096  # of a JPEG, before or between its scans; a colour profile has at most 255
MAX_SCANS = 100  # of a JPEG; a progressive one has about ten
MAX_SCANNED = 20 * MAX_PIXELS  # pixels times scans: each of them visits all coefficients
MAX_CHUNKS = 1024  # of a PNG, pictures left out; each may unpack to a megabyte
MAX_PREAMBLE = 2**21  # bytes of a GIF before its first frame
MAX_TAGS = 4096  # of a TIFF
MAX_CLAIMS = 2**26  # bytes of all tags of a TIFF or an EXIF block, or as many as it has
MAX_RUNS_WIDTH = 2**16 - 1  # pixels of a row of a run-length BMP: a step may skip 255 rows
MAX_TILES = 2**18  # strips or tiles of a TIFF: 64 megapixels in the smallest that there may be
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # no stuffing, no restart
_TEM, _SOI, _EOI, _SOS = 0x01, 0xD8, 0xD9, 0xDA
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # among the markers 0xC0 to 0xCF, which start a frame
_PIXEL_CHUNKS = (b"IDAT", b"fcTL", b"fdAT")
_WHERE = (273, 324)  # TIFF tags: where the strips or tiles lie
_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_EXIF = b"Exif\0\0"
_FAR = 2**62


def check_size(size: tuple[int, int], name: str) -> None:
    """Raises ImageError for no pixels, or more than `MAX_PIXELS`."""
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name} is {width} x {height} pixels; wanted at least 1 x 1.")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} is {width} x {height} pixels, over the {MAX_PIXELS // 10**6} megapixels "
            "allowed; shrink it."
        )


def check_limits(file: BinaryIO, name: str) -> None:
    """Look at the header of a file that can be sought, and go back to its start.

    Raises ImageError where its picture, or what stands around it, asks for too much.
    """
    head = file.read(32)
    if head.startswith(b"\xff\xd8"):
        file.seek(0)
        check_jpeg(file.read(), name)
    elif head.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_area((_big(head[16:20]), _big(head[20:24])), name)
        _check_chunks(file, name)
    elif head.startswith(b"GIF8"):
        _check_area((_little(head[6:8]), _little(head[8:10])), name)
        _check_preamble(head + file.read(MAX_PREAMBLE), name)
    elif head[:4] in _TIFF:
        _check_tiff(file, name)
    elif head.startswith(b"RIFF") and head[12:16] == b"VP8X":
        _check_area((_little(head[24:27]) + 1, _little(head[27:30]) + 1), name)
    elif head.startswith(b"BM"):
        oldest = _little(head[14:18]) == 12
        width, height = (head[18:20], head[20:22]) if oldest else (head[18:22], head[22:26])
        runs = not oldest and _little(head[30:32]) in (1, 2)
        if runs and _little(width) > MAX_RUNS_WIDTH:
            raise ImageError(f"{name} has packed rows over {MAX_RUNS_WIDTH} pixels; save it anew.")
        rows = int.from_bytes(height, "little", signed=not oldest)  # negative: from the top
        _check_area((_little(width), abs(rows)), name)
    file.seek(0)


def check_jpeg(data: bytes, name: str) -> None:
    """Raises ImageError for too many pixels, segments or scans, which cost a decoder much time."""
    segments = scans = pixels = channels = place = 0
    several = False  # whether more than one scan may come
    exif: list[bytes] = []
    while found := _JPEG_MARKER.search(data, place):
        marker, place = data[found.end() - 1], found.end()
        if marker == _EOI:
            return
        if marker in (_SOI, _TEM):  # the two without a length
            continue
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            height, width = _big(data[place + 3 : place + 5]), _big(data[place + 5 : place + 7])
            _check_area((width, height), name)
            pixels, channels = width * height, _big(data[place + 7 : place + 8])
            several = marker & 3 == 2  # progressive
        if marker == _SOS:
            scans += 1
            if scans == 1:
                check_exif(b"".join(exif), name)
            several |= _big(data[place + 2 : place + 3]) < channels
            if not several:
                return  # why: what follows is the picture, then nothing that a decoder reads
        segments += marker != _SOS
        if data.startswith(_EXIF, place + 2):
            exif.append(data[place + 2 + len(_EXIF) : place + _big(data[place : place + 2])])
        if segments > MAX_SEGMENTS:
            raise ImageError(f"{name} has over {MAX_SEGMENTS} segments of metadata; remove them.")
        if scans > MAX_SCANS or scans * pixels > MAX_SCANNED:
            raise ImageError(f"{name} has over {scans - 1} scans, too much work; save it anew.")
        place += _big(data[place : place + 2])


def _check_area(size: tuple[int, int], name: str) -> None:
    if all(size):  # what lacks a side is damaged, as its decoder will say
        check_size(size, name)


def _check_chunks(file: BinaryIO, name: str) -> None:
    file.seek(8)
    count = 0
    while len(head := file.read(8)) == 8:
        count += head[4:] not in _PIXEL_CHUNKS
        if count > MAX_CHUNKS:
            raise ImageError(f"{name} has over {MAX_CHUNKS} chunks of metadata; remove them.")
        file.seek(_big(head[:4]) + 4, os.SEEK_CUR)


def _check_preamble(data: bytes, name: str) -> None:
    """Why: Pillow joins comments block by block, in time that grows with the square of them."""
    place = 13 + _palette(data[10:11])
    while data[place : place + 1] == b"!":  # an extension: kind, then blocks, the last one empty
        place += 2
        while length := _big(data[place : place + 1]):
            place += 1 + length
        place += 1
    if place >= len(data) >= MAX_PREAMBLE:
        raise ImageError(f"{name} has over {MAX_PREAMBLE // 2**20} MB before its first frame.")


def check_exif(block: bytes, name: str) -> None:
    """Raises ImageError for tags that lie on the same bytes and would be read apart."""
    block = block.removeprefix(_EXIF)
    if block[:4] in _TIFF:
        _check_claims(io.BytesIO(block), len(block), name)


def _check_tiff(file: BinaryIO, name: str) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    for number, (tag, _, count) in enumerate(_tags(file), start=1):
        if number > MAX_TAGS:
            raise ImageError(f"{name} has over {MAX_TAGS} tags; save it anew.")
        if tag in _WHERE and count > MAX_TILES:
            raise ImageError(f"{name} has {count} strips or tiles, over {MAX_TILES}; save it anew.")
    file.seek(0)
    _check_claims(file, size, name)


def _check_claims(file: BinaryIO, size: int, name: str) -> None:
    claims = [min(count * _UNITS.get(kind, 0), size) for _, kind, count in _tags(file)]
    if sum(claims) > max(size, MAX_CLAIMS):
        raise ImageError(
            f"{name} has {sum(claims) // 2**20} MB of tags in {size} bytes; save anew."
        )


def _tags(file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """(tag, type, count) of each entry of the first directory."""
    start, head = file.tell(), file.read(16)
    order: Any = "little" if head[:2] == b"II" else "big"
    wide = b"+" in head[2:4]  # BigTIFF: counts of 8 bytes, entries of 20
    number, entry, values = (8, 20, 12) if wide else (2, 12, 8)
    file.seek(min(start + int.from_bytes(head[8:16] if wide else head[4:8], order), _FAR))
    for _ in range(int.from_bytes(file.read(number), order)):
        data = file.read(entry)
        if len(data) < entry:
            return
        fields = data[:2], data[2:4], data[4:values]
        yield tuple(int.from_bytes(field, order) for field in fields)  # type: ignore[misc]


def _palette(flags: bytes) -> int:
    """Bytes of the colour table of a GIF that has these flags."""
    return 3 << (flags[0] % 8 + 1) if flags and flags[0] & 0x80 else 0


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
