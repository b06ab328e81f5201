"""A folder such as people have: pictures of many formats, modes and sizes, and damaged files."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps

SIZES = (32, 64, 64, 96, 128, 128, 200, 256, 400, 900)  # of the shorter side; small ones are common
PER_FOLDER = 500


@cache
def _drawings() -> list[Image.Image]:
    from mmfm.cli import gallery

    return [Image.open(drawing.path).convert("RGBA") for drawing in gallery.read()]


def picture(number: int) -> Image.Image:
    """A drawing of the gallery turned, coloured and sized by `number`; all differ."""
    rng = random.Random(number)
    drawing = rng.choice(_drawings()).rotate(rng.uniform(0, 360), expand=True)
    colour = tuple(rng.randrange(256) for _ in range(3))
    side = rng.choice(SIZES)
    canvas = Image.new("RGB", (side, int(side * rng.uniform(1, 1.6))), colour)
    stamp = ImageOps.contain(drawing, canvas.size)
    canvas.paste(stamp, (rng.randrange(canvas.width - stamp.width + 1), 0), stamp)
    canvas = ImageEnhance.Color(canvas).enhance(rng.uniform(0.3, 1.7))
    return ImageOps.mirror(canvas) if rng.random() < 0.5 else canvas


def _saved(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _saved(image, "JPEG", exif=exif)


def _half_clear(image: Image.Image) -> bytes:
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return _saved(image, "PNG", compress_level=1)


def _animated(image: Image.Image) -> bytes:
    image.thumbnail((128, 128))
    frames = [ImageOps.flip(image), ImageOps.mirror(image)]
    return _saved(image, "GIF", save_all=True, append_images=frames)


# kind -> (suffix, picture to file); those of PLAIN mean the same to every program
PLAIN = ("jpeg", "png")
KINDS: dict[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "jpeg": (".jpg", lambda image: _saved(image, "JPEG", quality=90)),
    "progressive": (".jpeg", lambda image: _saved(image, "JPEG", progressive=True)),
    "grey": (".jpg", lambda image: _saved(image.convert("L"), "JPEG")),
    "cmyk": (".jpg", lambda image: _saved(image.convert("CMYK"), "JPEG")),
    "turned": (".JPG", _turned),
    "png": (".png", lambda image: _saved(image, "PNG", compress_level=1)),
    "palette": (".png", lambda image: _saved(image.quantize(64), "PNG", compress_level=1)),
    "alpha": (".png", _half_clear),
    "webp": (".webp", lambda image: _saved(image, "WEBP", method=0)),
    "lossless": (".webp", lambda image: _saved(image, "WEBP", lossless=True, method=0)),
    "gif": (".gif", lambda image: _saved(image, "GIF")),
    "animated": (".gif", _animated),
}


def _flipped(data: bytes) -> bytes:
    """The signature and the header turned over, the rest as it was."""
    return bytes(255 - byte for byte in data[:32]) + data[32:]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "header only": lambda data: data[:24],
    "cut to a tenth": lambda data: data[: len(data) // 10],  # more holds a GIF's first frame whole
    "zeros": lambda data: bytes(len(data)),
    "noise": lambda data: random.Random(len(data)).randbytes(len(data)),
    "a web page": lambda data: b"<!DOCTYPE html><title>404</title>" * 20,
    "flipped header": _flipped,
    "shifted": lambda data: b"\x00\x00\x00" + data,
    "an archive": lambda data: b"PK\x03\x04" + data,
}


def write(folder: Path, number: int, *, damage: str | None = None) -> str:
    """Make file `number`; returns its path inside `folder`."""
    kind = list(KINDS)[number % len(KINDS)]
    suffix, encode = KINDS[kind]
    name = f"part{number // PER_FOLDER:03}/{number:06}-{kind}{suffix}"
    data = encode(picture(number))
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if damage is None else DAMAGE[damage](data))
    return name
