"""One self-contained HTML page: pictures as data URIs, every word escaped, nothing fetched."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from html import escape

from PIL import Image

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 72rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.25rem; margin: 2.2rem 0 .3rem; }
p { margin: .2rem 0 .8rem; } .note { color: #555; }
h3 { font-size: 1rem; margin: 1rem 0 .3rem; font-weight: 600; }
.row { display: flex; flex-wrap: wrap; gap: .7rem; }
figure { margin: 0; width: 8rem; border: 1px solid #e3e3e3; border-radius: .4rem; padding: .5rem; }
figure img { display: block; width: 100%; height: 7rem; object-fit: contain; }
figcaption { font-size: .85rem; margin-top: .35rem; overflow-wrap: anywhere; }
figcaption small { display: block; color: #666; }
footer { margin-top: 3rem; border-top: 1px solid #e3e3e3; padding-top: 1rem; font-size: .8rem;
  color: #555; } footer pre { white-space: pre-wrap; font: inherit; }
"""


@dataclass(frozen=True)
class Card:
    """A picture, the words under it, and a smaller line under those."""

    image: Image.Image
    text: str
    note: str = ""


@dataclass(frozen=True)
class Row:
    """Pictures side by side under one heading, which may be empty."""

    title: str
    cards: list[Card]


@dataclass(frozen=True)
class Section:
    """A heading, one honest line about what is below it, and the rows."""

    title: str
    note: str
    rows: list[Row] = field(default_factory=list)


def render(title: str, intro: str, sections: list[Section], footer: str) -> str:
    """The whole page as HTML text; every argument is plain text."""
    body = "".join(_section(section) for section in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="note">{escape(intro)}</p>\n{body}'
        f"<footer><pre>{escape(footer)}</pre></footer>\n</body></html>\n"
    )


def _section(section: Section) -> str:
    rows = "".join(
        (f"<h3>{escape(row.title)}</h3>\n" if row.title else "")
        + f'<div class="row">\n{"".join(_card(card) for card in row.cards)}</div>\n'
        for row in section.rows
    )
    heading = f'<h2>{escape(section.title)}</h2>\n<p class="note">{escape(section.note)}</p>\n'
    return f"<section>\n{heading}{rows}</section>\n"


def _card(card: Card) -> str:
    note = f"<small>{escape(card.note)}</small>" if card.note else ""
    image = f'<img src="{_data_uri(card.image)}" alt="{escape(card.text)}">'
    return f"<figure>{image}<figcaption>{escape(card.text)}{note}</figcaption></figure>\n"


def _data_uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
