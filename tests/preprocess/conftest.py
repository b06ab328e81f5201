"""Small files that ask for a lot: of memory, of time, or of both."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image


def png(width, height, *extra, colours=2, depth=8, interlaced=0, pixels=b"\0" * 100):
    """A PNG of the given header; `extra` chunks (kind, data) come before its pixels."""
    head = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, interlaced)
    parts = [(b"IHDR", head), *extra, (b"IDAT", zlib.compress(pixels, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def chunk(kind, data):
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def jpeg(side=64, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", **options)
    return stream.getvalue()


def many_scans(count, side=64):
    """A progressive JPEG whose last scan comes again and again."""
    data = jpeg(side, progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def many_split_scans(count):
    """The same without being progressive: each scan holds one of three colours."""
    data = jpeg(16, subsampling=0)
    start = data.index(b"\xff\xda")
    scan = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" + data[start + 14 : -2]
    return data[:start] + scan * count + data[-2:]


def many_segments(count):
    data = jpeg()
    return data[:2] + b"\xff\xe1\0\x09Exif\0\0!" * count + data[2:]


def gif(width=8, height=8, comment=0):
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0)
    words = b"!\xfe" + (b"\xff" + b"!" * 255) * (comment // 256) + b"\0" if comment else b""
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "GIF")
    whole = stream.getvalue()
    return screen + words + whole[whole.index(b",") :]


def tiff(width, height, tags=(), offsets=1, compression=1, count=None):
    """Grey, one row a strip; `tags` (number, type, count, value) come besides."""
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression),
        (262, 3, 1, 1), (273, 4, offsets, 8), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, 1, width),
        *tags,
    ]  # fmt: skip
    where = 8 + 4 * offsets
    data = b"II*\0" + struct.pack("<I", where) + struct.pack("<I", 8) * offsets
    data += struct.pack("<H", min(len(entries), 65535) if count is None else count)
    return data + b"".join(struct.pack("<HHII", *entry) for entry in entries) + b"\0" * 4


def big_tiff(tags):
    return b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, tags) + b"\0" * 100


def overlapping(tags, size):
    """An EXIF block whose tags all lie on the same bytes."""
    entries = [struct.pack("<HHII", 1000 + n, 7, size, 0) for n in range(tags)]
    return b"II*\0\x08\0\0\0" + struct.pack("<H", tags) + b"".join(entries) + bytes(4 + size)


def jpeg_with_exif(block):
    data, parts = jpeg(), [block[at : at + 65_000] for at in range(0, len(block), 65_000)]
    segments = [b"\xff\xe1" + struct.pack(">H", 8 + len(p)) + b"Exif\0\0" + p for p in parts]
    return data[:2] + b"".join(segments) + data[data.index(b"\xff\xdb") :]


def webp(width, height):
    """The header of an animation."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + sides
    body += b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp(width, height, *, runs=b"", oldest=False):
    if oldest:
        head = struct.pack("<IHHHH", 12, width, height, 1, 24)
    else:
        kind = 1 if runs else 0
        head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8 if runs else 24, kind, *[0] * 5)
    palette = b"\0\0\0\0" * 256 if runs else b""
    offset = 14 + len(head) + len(palette)
    body = head + palette + runs
    return b"BM" + struct.pack("<IHHI", 14 + len(body), 0, 0, offset) + body


NOTHING = zlib.compress(b"\0" * 2**20, 9)  # a megabyte in a kilobyte
REFUSED = {
    "JPEG of 2000 scans": lambda: many_scans(2000),
    "JPEG of 500 scans of one colour": lambda: many_split_scans(500),
    "JPEG of 100,000 segments": lambda: many_segments(100_000),
    "JPEG over the size": lambda: jpeg().replace(b"\0\x40\0\x40\x03", b"\xff\xff\xff\xff\x03"),
    "PNG of 3000 packed texts": lambda: png(8, 8, *[(b"zTXt", b"a\0\0" + NOTHING)] * 3000),
    "PNG of 3000 colour profiles": lambda: png(8, 8, *[(b"iCCP", b"a\0\0" + NOTHING)] * 3000),
    "PNG of a text of a gigabyte": lambda: png(
        8, 8, (b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 2**26, 9))
    ),
    "PNG over the size": lambda: png(60_000, 60_000),
    "GIF over the size": lambda: gif(65_535, 65_535),
    "GIF of a comment of 4 MB": lambda: gif(comment=2**22),
    "TIFF of 60,000 tags": lambda: tiff(8, 8, [(n, 1, 2**20, 0) for n in range(2**15, 2**16)]),
    "TIFF of tags on the same bytes": lambda: overlapping(4000, 2**20),
    "JPEG of EXIF tags on the same bytes": lambda: jpeg_with_exif(overlapping(4000, 2**20)),
    "TIFF of a million strips": lambda: tiff(8, 8, offsets=10**6),
    "TIFF over the size": lambda: tiff(10**5, 10**5),
    "TIFF of endless tags": lambda: big_tiff(2**63),
    "WebP over the size": lambda: webp(16_000, 16_000),
    "BMP over the size": lambda: bmp(30_000, 30_000),
    "BMP over the size, from the top": lambda: bmp(30_000, -30_000),
    "BMP over the size, of the oldest kind": lambda: bmp(60_000, 60_000, oldest=True),
    "BMP of steps of gigabytes": lambda: bmp(2**26 - 10**7, 1, runs=b"\0\x02\xff\xff" * 3),
    "BMP of one far step": lambda: bmp(60_000, 1, runs=b"\0\x02\xff\xff" * 3),
}
HEAVY = {  # within the limits, and as much as they allow
    "PNG of one row": lambda: png(64_000_000, 1, colours=0, depth=1, pixels=b"\0" * 8_000_001),
    "PNG of one column": lambda: png(1, 64_000_000, colours=0, pixels=b"\0" * 128_000_000),
    "PNG in passes": lambda: png(8000, 8000, colours=0, interlaced=1, pixels=b"\0" * 64_016_000),
    "PNG with alpha, 16 bit": lambda: png(
        8000, 8000, colours=6, depth=16, pixels=b"\0" * (8000 * 64_001)
    ),
    "PNG of deep grey": lambda: png(
        8000, 8000, colours=0, depth=16, pixels=b"\0" * (8000 * 16_001)
    ),
    "BMP of steps to the end of rows": lambda: bmp(8000, 8000, runs=b"\x01\x01\0\0" * 8000),
    "BMP of one row": lambda: bmp(65_535, 976, runs=b"\x01\x01\0\0" * 976),
    "PNG of EXIF tags on the same bytes": lambda: png(
        300, 300, (b"eXIf", overlapping(4000, 2**20)), colours=0, pixels=bytes(300 * 301)
    ),
    "JPEG of 20 scans": lambda: many_scans(9, side=8000),
}


@pytest.fixture(scope="session")
def refused(request):
    """Bytes by name, each to be refused from what its header says."""
    return {name: make() for name, make in REFUSED.items()}


@pytest.fixture(scope="session")
def heavy_files(tmp_path_factory):
    """Paths of whole pictures, each as heavy as is allowed."""
    folder = tmp_path_factory.mktemp("heavy")
    for name, make in HEAVY.items():
        (folder / name).write_bytes(make())
    return sorted(folder.iterdir())


@pytest.fixture(scope="session", name="many_scans")
def many_scans_fixture():
    return many_scans
