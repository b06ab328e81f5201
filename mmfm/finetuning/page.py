"""The report as one HTML page: tables, curves and pictures inside it, every word escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

from mmfm.finetuning.curves import Curve

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 72rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.25rem; margin: 2.2rem 0 .3rem; }
p { margin: .2rem 0 .8rem; } .note { color: #555; }
table { border-collapse: collapse; } td, th { padding: .25rem .9rem .25rem 0; text-align: right;
  border-bottom: 1px solid #eee; } td:first-child, th:first-child { text-align: left; }
.better { color: #1a7f37; font-weight: 600; } .worse { color: #b42318; font-weight: 600; }
.row { display: flex; flex-wrap: wrap; gap: .7rem; }
figure { margin: 0; width: 8rem; border: 1px solid #e3e3e3; border-radius: .4rem; padding: .5rem; }
figure.wide { width: auto; } figure.wide img { height: auto; max-width: 100%; }
figure img { display: block; width: 100%; height: 7rem; object-fit: contain; }
figcaption { font-size: .85rem; margin-top: .35rem; overflow-wrap: anywhere; }
figcaption small { display: block; color: #666; }
.curve { font-size: .85rem; } .curve svg { width: 22rem; max-width: 100%; font-size: 11px; }
pre { background: #f6f6f6; padding: .7rem; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Card:
    """A picture, the words under it, and smaller lines under those."""

    image: Image.Image
    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Strip:
    """Pictures side by side under a heading; wide: one picture, as large as it is."""

    title: str
    note: str
    cards: Sequence[Card]
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """rows: (what, before, after, change, whether it got better or None)."""

    title: str
    note: str
    rows: Sequence[tuple[str, str, str, str, bool | None]]


def page(
    title: str, intro: str, tables: Sequence[Table], curves: Sequence[Curve],
    strips: Sequence[Strip], notes: Sequence[str], command: str,
) -> str:  # fmt: skip
    """The whole page as HTML text; every argument is plain text."""
    drawn = "".join(curve.svg() for curve in curves)
    said = "".join(f"<li>{escape(note)}</li>" for note in notes)
    parts = [
        f'<h1>{escape(title)}</h1>\n<p class="note">{escape(intro)}</p>\n',
        *map(_table, tables),
        f"<h2>To know</h2>\n<ul>{said}</ul>\n" if said else "",
        *map(_strip, strips),
        f'<h2>How it went</h2>\n<div class="row">{drawn}</div>\n' if drawn else "",
        f"<h2>To do it again</h2>\n<pre>{escape(command)}</pre>\n",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n"
        f"{''.join(parts)}</body></html>\n"
    )


def _table(table: Table) -> str:
    rows = "".join(
        f"<tr><td>{escape(what)}</td><td>{escape(old)}</td><td>{escape(new)}</td>"
        f'<td class="{_colour(better)}">{escape(change)}</td></tr>\n'
        for what, old, new, change, better in table.rows
    )
    return (
        f'<h2>{escape(table.title)}</h2>\n<p class="note">{escape(table.note)}</p>\n'
        f"<table><tr><th></th><th>before</th><th>after</th><th>change</th></tr>\n{rows}</table>\n"
    )


def _colour(better: bool | None) -> str:
    return "" if better is None else "better" if better else "worse"


def _strip(strip: Strip) -> str:
    cards = "".join(_card(card, strip.wide) for card in strip.cards)
    return (
        f'<h2>{escape(strip.title)}</h2>\n<p class="note">{escape(strip.note)}</p>\n'
        f'<div class="row">{cards}</div>\n'
    )


def _card(card: Card, wide: bool) -> str:
    notes = "".join(f"<small>{escape(note)}</small>" for note in card.notes)
    image = f'<img src="{_data_uri(card.image)}" alt="{escape(card.text)}">'
    kind = ' class="wide"' if wide else ""
    return f"<figure{kind}>{image}<figcaption>{escape(card.text)}{notes}</figcaption></figure>\n"


def _data_uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.convert("RGB").save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
