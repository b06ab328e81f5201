"""Layouts in which the pictures lie as files: bare, with a text beside each, or by class."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path

from mmfm.data.bad import SampleError
from mmfm.data.layouts.layout import Entry, Layout, key_of, read_file
from mmfm.data.layouts.rows import as_json
from mmfm.data.layouts.words import class_words, parse_json, read_text
from mmfm.errors import DataError

SIDECARS = (".txt", ".caption")  # the second is what some trainers of LoRAs write


class PictureFolder(Layout):
    """A folder of pictures, in sub-folders or not, without captions."""

    kind = "pictures"
    name = "pictures without captions"

    def __init__(self, root: Path, files: Sequence[Path]) -> None:
        """files: the pictures below `root`, as `list_images` gives them."""
        super().__init__(root)
        self.folder = root
        self.files = files

    def count(self) -> int:
        return len(self.files)

    def _entries(self, places: Collection[int] | None) -> Iterator[Entry | SampleError]:
        for place in range(len(self.files)) if places is None else sorted(places):
            path = self.files[place]
            inside = path.relative_to(self.folder).as_posix()
            name = os.fsencode(inside).decode("utf-8", "backslashreplace")
            try:
                captions, known = self._said(path, name)
            except SampleError as error:
                yield error
            else:
                meta = {**known, "path": name}
                yield Entry(key_of(inside), name, captions, meta, partial(read_file, path))

    def _said(self, path: Path, name: str) -> tuple[tuple[str, ...], dict]:
        """Captions and meta of one picture. Raises SampleError."""
        return (), {}


class SidecarFolder(PictureFolder):
    """Pictures with a `.txt` (or `.caption`) of the same name beside each; every line a caption.

    A `.json` object beside a picture, as img2dataset writes it, becomes meta.
    """

    kind = "txt"
    name = "pictures with .txt beside them"

    def _said(self, path: Path, name: str) -> tuple[tuple[str, ...], dict]:
        text = sidecar_of(path)
        if text is None:
            told = f"{name} has no .txt of the same name beside it; write one or move it away"
            raise self.fault(name, "no-caption", told)
        try:
            lines = [line.strip() for line in read_text(text).splitlines()]
        except DataError as error:
            raise self.fault(name, "encoding", str(error)) from None
        captions = tuple(dict.fromkeys(line for line in lines if line))
        if not captions:
            told = f"the {text.suffix} beside {name} is empty; write a caption into it"
            raise self.fault(name, "no-caption", told)
        return captions, self._beside(path.with_suffix(".json"), name)

    def _beside(self, path: Path, name: str) -> dict:
        if not path.is_file():
            return {}
        try:
            known = as_json(parse_json(read_text(path)))
        except ValueError as error:
            told = f"the .json beside {name} cannot be read ({error}); mend or remove it"
            raise self.fault(name, "malformed", told) from None
        known = known if isinstance(known, dict) else {"json": known}
        known.pop("captions", None)  # the .txt is the caption; shards keep theirs under this name
        return known


class ClassFolder(PictureFolder):
    """Pictures in sub-folders named after what they show: `tabby_cat/1.jpg` says "tabby cat"."""

    kind = "classes"
    name = "sub-folders as class names"

    def _said(self, path: Path, name: str) -> tuple[tuple[str, ...], dict]:
        label = path.parent.name
        return (class_words(label),), {"class": label}


def sidecar_of(picture: Path) -> Path | None:
    """The text file beside a picture, if there is one."""
    beside = (picture.with_suffix(suffix) for suffix in SIDECARS)
    return next((path for path in beside if path.is_file()), None)


_SPLITS = {"train", "training", "test", "val", "valid", "validation", "dev", "eval"}
_COUNTERS = re.compile(r"\d{4,}")  # shards and years, where 0..999 may be classes


def are_classes(root: Path, files: Sequence[Path]) -> bool:
    """Whether sub-folders name classes: two or more of them, and no picture outside of them.

    Folders named after splits (train, test) or numbered like shards (00017) name no classes.
    """
    parents = {file.parent for file in files}
    names = {parent.name for parent in parents}
    return (
        root not in parents
        and len(names) > 1
        and not all(name.lower() in _SPLITS or _COUNTERS.fullmatch(name) for name in names)
    )
