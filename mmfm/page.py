"""A self-contained HTML page: pictures as data URIs, every word escaped, nothing fetched."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 72rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.25rem; margin: 2.2rem 0 .3rem; }
h3 { font-size: 1rem; margin: 1rem 0 .3rem; font-weight: 600; }
p { margin: .2rem 0 .8rem; } .note { color: #555; }
table { border-collapse: collapse; } td, th { padding: .25rem .9rem .25rem 0; text-align: right;
  border-bottom: 1px solid #eee; } td:first-child, th:first-child { text-align: left; }
.better { color: #1a7f37; font-weight: 600; } .worse { color: #b42318; font-weight: 600; }
.row { display: flex; flex-wrap: wrap; gap: .7rem; }
figure { margin: 0; width: 8rem; border: 1px solid #e3e3e3; border-radius: .4rem; padding: .5rem; }
figure img { display: block; width: 100%; height: 7rem; object-fit: contain; }
figure.wide { width: auto; } figure.wide img { height: auto; max-width: 100%; }
figcaption { font-size: .85rem; margin-top: .35rem; overflow-wrap: anywhere; }
figcaption small { display: block; color: #666; }
.curve { font-size: .85rem; } .curve svg { width: 22rem; max-width: 100%; font-size: 11px; }
pre { background: #f6f6f6; padding: .7rem; white-space: pre-wrap; overflow-wrap: anywhere; }
footer { margin-top: 3rem; border-top: 1px solid #e3e3e3; padding-top: 1rem; font-size: .8rem;
  color: #555; } footer pre { background: none; padding: 0; font: inherit; }
"""


@dataclass(frozen=True)
class Card:
    """A picture, the words under it, and smaller lines under those."""

    image: Image.Image
    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """Pictures side by side under one heading, which may be empty; wide: as large as they are."""

    title: str
    cards: Sequence[Card]
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """A heading, one honest line about what is below it, and the rows."""

    title: str
    note: str
    rows: Sequence[Row] = ()

    def html(self) -> str:
        rows = "".join(map(_row, self.rows))
        return f"<section>\n{heading(self.title, self.note)}{rows}</section>\n"


def document(title: str, intro: str, body: str) -> str:
    """The whole page as HTML text; title and intro are plain text, the body is HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="note">{escape(intro)}</p>\n{body}</body></html>\n'
    )


def heading(title: str, note: str) -> str:
    """Of a part of the page, as HTML."""
    return f'<h2>{escape(title)}</h2>\n<p class="note">{escape(note)}</p>\n'


def footer(text: str) -> str:
    """Small print, as HTML."""
    return f"<footer><pre>{escape(text)}</pre></footer>\n"


def _row(row: Row) -> str:
    title = f"<h3>{escape(row.title)}</h3>\n" if row.title else ""
    cards = "".join(_card(card, row.wide) for card in row.cards)
    return f'{title}<div class="row">\n{cards}</div>\n'


def _card(card: Card, wide: bool) -> str:
    notes = "".join(f"<small>{escape(note)}</small>" for note in card.notes)
    image = f'<img src="{_data_uri(card.image)}" alt="{escape(card.text)}">'
    kind = ' class="wide"' if wide else ""
    return f"<figure{kind}>{image}<figcaption>{escape(card.text)}{notes}</figcaption></figure>\n"


def _data_uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
