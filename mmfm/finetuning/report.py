"""What a fine-tuning did: figures before and after, as values, JSON and one HTML page."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmfm.errors import OutputError
from mmfm.finetuning.curves import Curve
from mmfm.finetuning.page import Table, page
from mmfm.page import Section

REPORT, PAGE = "report.json", "report.html"
# figure -> what people call it, and whether more is better
SHOWN = {
    "retrieval": {
        "text_to_image_recall@1": ("text finds its picture first", True),
        "text_to_image_recall@5": ("… among five", True),
        "image_to_text_recall@1": ("picture finds its text first", True),
        "image_to_text_recall@5": ("… among five", True),
    },
    "captions": {
        "token_f1": ("words of the caption that are right (F1)", True),
        "exact": ("captions word for word", True),
        "cider_d": ("CIDEr-D", True),
    },
    "classes": {"accuracy": ("pictures named right, of the folder's classes", True)},
    "generation": {
        "cmmd": ("distance to real pictures (CMMD, the judge's features)", False),
        "own_tower_recall@1": ("drawn pictures that their text finds (own towers)", True),
        "judge_top1": ("drawn pictures that the judge names right", True),
    },
}


@dataclass
class FinetuneReport:
    """figures: set ("held_out", "original") -> "before" and "after" -> skill -> figure.

    model: folder of the new model, or of the adapter. plan: as it was told before the start.
    told: mix, early stops, seconds. notes: sentences that a reader should know.
    """

    model: Path
    base: str
    command: str
    figures: dict[str, dict[str, Any]]
    plan: dict[str, Any]
    account: dict[str, Any]
    told: dict[str, Any]
    notes: list[str]
    curves: list[Curve] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)

    @property
    def page(self) -> Path:
        return self.model / PAGE

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without the pictures."""
        return {
            "model": str(self.model), "base": self.base, "command": self.command,
            "figures": self.figures, "plan": self.plan, "data": self.account, "told": self.told,
            "notes": self.notes,
            "curves": [{"title": c.title, "points": c.points} for c in self.curves],
        }  # fmt: skip

    def write(self) -> None:
        """report.json and report.html into the model's folder. Raises OutputError."""
        try:
            text = json.dumps(self.to_dict(), ensure_ascii=False, indent=2, default=str)
            (self.model / REPORT).write_text(text + "\n", encoding="utf-8")
            self.page.write_text(self.html(), encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"cannot write the report in {self.model}: {error.strerror}"
            ) from error

    def html(self) -> str:
        """The page: nothing is fetched from anywhere."""
        counts = self.plan.get("pictures", {})
        told = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        return page(
            f"Fine-tuned from {self.base}",
            f"{told}. {self.told.get('seconds', 0) / 60:.1f} minutes.",
            self.tables(), self.curves, self.sections, self.notes, self.command,
        )  # fmt: skip

    def tables(self) -> list[Table]:
        """One for each set of pictures: before, after and the change of every figure there is."""
        titles = {"held_out": "Your pictures, held out", "original": "What it could do before"}
        found = []
        for name, both in self.figures.items():
            rows = [row for skill in SHOWN for row in _rows(skill, both["before"], both["after"])]
            if rows:
                found.append(Table(titles.get(name, name), both.get("note", ""), rows))
        return found

    def lines(self) -> list[str]:
        """The same for a terminal."""
        lines = []
        for table in self.tables():
            lines.append(f"{table.title}: {table.note}" if table.note else table.title)
            lines += [f"  {label:<55} {old:>8} -> {new:>8}  {change}"
                      for label, old, new, change, _ in table.rows]  # fmt: skip
        return lines


def _rows(skill: str, before: dict, after: dict) -> list[tuple[str, str, str, str, bool | None]]:
    """(what, before, after, change, whether it got better)."""
    rows: list[tuple[str, str, str, str, bool | None]] = []
    for key, (label, more_is_better) in SHOWN[skill].items():
        old = before.get(skill, {}).get(key)
        new = after.get(skill, {}).get(key)
        if new is None:
            continue
        if old is None:
            rows.append((label, "-", _number(new), "", None))
            continue
        change = new - old
        better = None if abs(change) < 1e-9 else (change > 0) == more_is_better
        rows.append((label, _number(old), _number(new), f"{change:+.3f}", better))
    return rows


def _number(value: float) -> str:
    return f"{value:.3f}"
