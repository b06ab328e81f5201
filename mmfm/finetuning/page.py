"""The report as one HTML page: tables, notes, pictures, curves, and the command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from mmfm.finetuning.curves import Curve
from mmfm.page import Section, document, heading


@dataclass(frozen=True)
class Table:
    """rows: (what, before, after, change, whether it got better or None)."""

    title: str
    note: str
    rows: Sequence[tuple[str, str, str, str, bool | None]]

    def html(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(what)}</td><td>{escape(old)}</td><td>{escape(new)}</td>"
            f'<td class="{_colour(better)}">{escape(change)}</td></tr>\n'
            for what, old, new, change, better in self.rows
        )
        names = "<tr><th></th><th>before</th><th>after</th><th>change</th></tr>\n"
        return f"{heading(self.title, self.note)}<table>{names}{rows}</table>\n"


def page(
    title: str, intro: str, tables: Sequence[Table], curves: Sequence[Curve],
    sections: Sequence[Section], notes: Sequence[str], command: str,
) -> str:  # fmt: skip
    """The whole page as HTML text; every argument is plain text."""
    drawn = "".join(curve.svg() for curve in curves)
    said = "".join(f"<li>{escape(note)}</li>" for note in notes)
    parts = [
        *(table.html() for table in tables),
        f"<h2>To know</h2>\n<ul>{said}</ul>\n" if said else "",
        *(section.html() for section in sections),
        f'<h2>How it went</h2>\n<div class="row">{drawn}</div>\n' if drawn else "",
        f"<h2>To do it again</h2>\n<pre>{escape(command)}</pre>\n",
    ]
    return document(title, intro, "".join(parts))


def _colour(better: bool | None) -> str:
    return "" if better is None else "better" if better else "worse"
