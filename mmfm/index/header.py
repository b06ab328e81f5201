"""What an index of pictures knows besides its rows: whose vectors, of which folder, what failed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmfm import __version__
from mmfm.errors import DataError
from mmfm.index.entries import Entry

_KIND = "pictures of a folder"


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A picture that could not be read, why, and the file as it was then."""

    path: str
    reason: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, entry: Entry, reason: str) -> Unreadable:
        return cls(path=entry.path, reason=reason, size=entry.size, mtime_ns=entry.mtime_ns)


@dataclass(frozen=True, kw_only=True)
class Header:
    """folder: the indexed folder, absolute; folder_beside: the same, relative to the index's own
    folder, so that both can be moved together (None in memory or across drives).

    settled: False while rows of another folder may be among these. num_new: rows embedded so far by
    a build that is not finished. unreadable: to be tried again when the file changes, or by another
    version of mmfm.
    """

    model: str
    backbone_hash: str
    folder: str
    folder_beside: str | None = None
    settled: bool = True
    num_new: int = 0
    unreadable: tuple[Unreadable, ...] = ()
    mmfm: str = __version__
    settings: Mapping[str, Any] = field(default_factory=dict)

    def as_about(self) -> dict[str, Any]:
        """Plain data, which an index keeps."""
        return {"kind": _KIND, **asdict(self)}

    @classmethod
    def of_about(cls, about: Mapping[str, Any], place: Any) -> Header:
        """The inverse. Raises DataError when they belong to another kind of index."""
        fields = dict(about)
        if fields.pop("kind", None) != _KIND:
            raise DataError(
                f"{place} holds vectors but not those of a folder of pictures; open it with "
                "FlatIndex.open, or make one with `mmfm index FOLDER -o INDEX`."
            )
        try:
            unreadable = tuple(Unreadable(**one) for one in fields.pop("unreadable"))
            return cls(**fields, unreadable=unreadable)
        except (KeyError, TypeError) as error:
            raise DataError(f"The index {place} is damaged ({error}); build it again.") from error

    def find_folder(self, place: Path | None, example: str | None) -> Path:
        """Where the pictures are: beside the index as they were, else at their old absolute place.

        place: the folder of the index. example: the path of a picture inside the folder.
        """
        if place is not None and self.folder_beside is not None and example is not None:
            beside = Path(os.path.normpath(place / self.folder_beside))
            if (beside / example).exists():
                return beside
        return Path(self.folder)


def folder_beside(folder: Path, place: Path | None) -> str | None:
    """The way from the folder of the index to that of the pictures."""
    if place is not None:
        with contextlib.suppress(ValueError):  # another drive: only the absolute place is known
            return Path(os.path.relpath(os.path.realpath(folder), place)).as_posix()
    return None
