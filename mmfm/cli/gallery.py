"""The small gallery inside the package: drawings of the test split, never trained on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "gallery"


@dataclass(frozen=True)
class Drawing:
    """A picture of the gallery with its true name and where it comes from."""

    path: Path
    text: str
    set: str
    license: str
    author: str


def read() -> list[Drawing]:
    """Every drawing of the gallery, in the order of its `captions.jsonl`."""
    lines = (FOLDER / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines if line.strip()]
    return [
        Drawing(FOLDER / e["file_name"], e["text"], e["set"], e["license"], e["author"])
        for e in entries
    ]


def attribution() -> str:
    """Who drew what, under which licence, as plain text."""
    return (FOLDER / "ATTRIBUTION.md").read_text(encoding="utf-8")
