"""Drawings to square RGBA pictures of one size, with what is needed to compare them."""

import hashlib
import io
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
from PIL import Image, UnidentifiedImageError

from data_pipelines.drawing import Drawing

MAX_PIXELS = 64_000_000
MIN_COVER = 0.01  # share of pixels that must be seen
MIN_CONTRAST = 8  # of 255, between the lightest and darkest of the picture on white


@dataclass(frozen=True)
class Picture:
    """A rendered drawing: PNG bytes, hash of its RGBA pixels, and small copies to compare."""

    png: bytes
    pixels_sha256: str
    dhash: int  # 64 bits: does the brightness on white rise to the right, in a 9x8 copy
    thumb: bytes  # 8x8 RGB on white


def render(drawing: Drawing, size: int) -> Picture | None:
    """One drawing, centred, its aspect kept; None when it cannot be drawn or shows nothing."""
    image = draw_svg(drawing.svg, size) if drawing.svg is not None else read_png(drawing.png, size)
    if image is None:
        return None
    pixels = np.array(image)
    pixels[pixels[..., 3] == 0] = 0  # what is not seen must not tell pictures apart
    if (pixels[..., 3] > 16).mean() < MIN_COVER:
        return None
    image = Image.fromarray(pixels)
    white = on_white(image)
    if np.ptp(np.asarray(white.convert("L"), dtype=int)) < MIN_CONTRAST:
        return None
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=9)
    small = np.asarray(white.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=int)
    bits = (small[:, 1:] > small[:, :-1]).ravel()
    return Picture(
        png=stream.getvalue(),
        pixels_sha256=hashlib.sha256(pixels.tobytes()).hexdigest(),
        dhash=int("".join("1" if bit else "0" for bit in bits), 2),
        thumb=white.resize((8, 8), Image.Resampling.BOX).tobytes(),
    )


def draw_svg(svg: str, size: int) -> Image.Image | None:
    """An SVG document as a size x size RGBA picture; None when it cannot be drawn."""
    import resvg_py

    try:
        data = bytes(resvg_py.svg_to_bytes(svg_string=_scaled(svg, size), skip_system_fonts=True))
    except ValueError:
        return None
    return Image.open(io.BytesIO(data)).convert("RGBA")


def _scaled(svg: str, size: int) -> str:
    # why: a square outer document centres any viewBox and keeps its aspect
    head, _, rest = svg.partition(">")
    start = head.rindex(' width="')
    return f'{head[:start]} width="{size}" height="{size}">{rest}'


def read_png(data: bytes, size: int) -> Image.Image | None:
    """A PNG file as a size x size RGBA picture; None when it cannot be read."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=("PNG",)) as opened:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if opened.width * opened.height > MAX_PIXELS:
                return None
            image = opened.convert("RGBA").convert("RGBa")  # premultiplied: no dark fringes
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError):
        return None
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    square = Image.new("RGBA", (size, size))
    square.paste(image.convert("RGBA"), ((size - width) // 2, (size - height) // 2))
    return square


def on_white(image: Image.Image) -> Image.Image:
    """An RGBA picture on white, as RGB."""
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white.convert("RGB")


def render_all(
    drawings: Iterable[Drawing], size: int, workers: int
) -> Iterator[tuple[Drawing, Picture | None]]:
    """Drawings with their pictures, in the order given; in `workers` processes when above 1."""
    if workers <= 1:
        for drawing in drawings:
            yield drawing, render(drawing, size)
        return
    drawings = list(drawings)
    with get_context("spawn").Pool(workers) as pool:
        tasks = ((drawing, size) for drawing in drawings)
        yield from zip(drawings, pool.imap(_render_task, tasks, chunksize=64), strict=True)


def _render_task(task: tuple[Drawing, int]) -> Picture | None:
    return render(*task)
