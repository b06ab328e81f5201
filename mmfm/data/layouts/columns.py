"""Which column of a table names the picture, and which holds the captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# From the plainest name to the least sure; the first that a table has is taken.
FILES = (
    *("file_name", "filename", "file", "filepath", "file_path", "image_path", "image_file"),
    *("image_name", "image_filename", "image", "img_path", "img_name", "img", "path"),
    *("picture", "photo", "image_id", "id"),
)
TEXTS = (
    *("text", "texts", "caption", "captions", "title", "description", "sentence", "sentences"),
    *("comment", "comments", "prompt", "raw", "alt_text", "label", "labels", "class"),
    *("class_name", "category", "breed", "species"),
)
LABELS = TEXTS[TEXTS.index("label") :]  # short names rather than sentences
URLS = ("url", "urls", "image_url", "img_url", "image_link", "link")


@dataclass(frozen=True)
class Columns:
    """Names of two columns as the table spells them; text is None when it has no captions."""

    file: str
    text: str | None

    @property
    def holds_labels(self) -> bool:
        """Whether the captions are names of classes, such as `golden_retriever`."""
        return self.text is not None and _plain(self.text) in LABELS

    def __str__(self) -> str:
        said = f"captions from `{self.text}`" if self.text else "no captions"
        return f"pictures from column `{self.file}`, {said}"


def find_columns(names: Sequence[str]) -> Columns | None:
    """The two columns among `names`, or None when none of them names pictures."""
    file = _first(FILES, names)
    if file is None:
        return None
    return Columns(file, _first(TEXTS, [name for name in names if name != file]))


def has_urls(names: Sequence[str]) -> bool:
    """Whether a table names its pictures by address only."""
    return _first(URLS, names) is not None


def _first(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    found = {_plain(name): name for name in reversed(names)}
    return next((found[name] for name in wanted if name in found), None)


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")
