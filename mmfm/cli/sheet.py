"""Contact sheets: many pictures with their labels on one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from mmfm.page import Section

PAPER, INK, GAP, FONT_SIZE, LINE = "white", "#222222", 8, 12, 15


def contact_sheet(
    images: Sequence[Image.Image],
    labels: Sequence[str] | None = None,
    columns: int | None = None,
    cell: int = 128,
) -> Image.Image:
    """Pictures in rows of `columns` (default: about square), each fitted into `cell` pixels.

    labels: one per picture, wrapped to at most five lines below it; transparency shows white.
    """
    columns = columns or max(1, round(len(images) ** 0.5))
    font = ImageFont.load_default(size=FONT_SIZE)
    texts = [_wrap(label, font, cell) for label in labels or [""] * len(images)]
    rows = [range(i, min(i + columns, len(images))) for i in range(0, len(images), columns)]
    below = [max(len(texts[i]) for i in row) * LINE for row in rows]
    size = (GAP + columns * (cell + GAP), GAP + sum(cell + GAP + extra for extra in below))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    top = GAP
    for row, extra in zip(rows, below):
        for column, i in enumerate(row):
            left = GAP + column * (cell + GAP)
            _paste(sheet, images[i], left, top, cell)
            for number, line in enumerate(texts[i]):
                draw.text((left, top + cell + 1 + number * LINE), line, INK, font)
        top += cell + GAP + extra
    return sheet


def section_sheet(section: Section) -> Image.Image:
    """A section of a page as one picture, each card labelled with all its words."""
    cards = [(row.title, card) for row in section.rows for card in row.cards]
    labels = [" · ".join(filter(None, (title, card.text, *card.notes))) for title, card in cards]
    return contact_sheet([card.image for _, card in cards], labels, columns=6)


def _paste(sheet: Image.Image, image: Image.Image, left: int, top: int, cell: int) -> None:
    scale = cell / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.convert("RGBA").resize(size, Image.Resampling.LANCZOS)
    sheet.paste(image, (left + (cell - size[0]) // 2, top + (cell - size[1]) // 2), image)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines: list[str] = []
    for piece in re.split(r"(?<=[\s-])", text.strip()):  # a line may also end at a hyphen
        if lines and font.getlength((lines[-1] + piece).rstrip()) <= width:
            lines[-1] += piece
        elif piece:
            lines.append(piece)
    return lines[:5]
