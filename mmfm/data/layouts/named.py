"""From the name that a table gives a picture to the file that is meant."""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path

from mmfm.data.layouts.words import is_text
from mmfm.errors import DataError
from mmfm.preprocess.folder import IMAGE_SUFFIXES, list_images

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]+://|^data:")
_NUMBERED = re.compile(r"#\d+$")  # Flickr8k counts the captions of a picture: 1.jpg#0, 1.jpg#1


class Names:
    """Finds the pictures that a table names, below one folder.

    A name is a path from the table's folder, or from that of the pictures. Where no such file
    exists, it is the one picture below the folder whose path ends in the name, so `1.jpg` finds
    `Images/1.jpg`; a name without a picture's suffix may leave it out.
    """

    def __init__(self, root: Path, near: Path | None = None) -> None:
        """root: no picture outside of it is taken. near: where names start from first."""
        self.root = root
        self._base = os.path.join(os.path.abspath(root), "")
        self._starts = [os.path.abspath(near)] if near else []
        self._starts.append(self._base)
        self.searched = 0  # names that were not a path from the folder and yet found

    def find(self, name: str) -> tuple[str, str, str]:
        """(path inside the folder, "", "") or (name, cause, why it is not found)."""
        name = self._clean(name)
        if not name:
            return name, "no-file", "names no picture"
        if not is_text(name):
            return ascii(name), "encoding", "names a picture with half a surrogate pair"
        if _URL.match(name):
            return name, "url", f"names {name[:100]}; download the pictures first (img2dataset)"
        wholes = [os.path.normpath(os.path.join(start, name)) for start in self._starts]
        inside = [whole for whole in wholes if whole.startswith(self._base)]
        if not inside:
            wanted = f"is outside of {self.root}; give the folder above both with --images"
            return name, "outside", f"names {name[:200]}, which {wanted}"
        if whole := next((whole for whole in inside if os.path.isfile(whole)), None):
            return whole[len(self._base) :].replace(os.sep, "/"), "", ""
        if found := self._search(name):
            self.searched += 1
            return found, "", ""
        return name, "missing", f"names {name[:200]}, which is not in {self.root}"

    def _clean(self, name: str) -> str:
        name = name.strip()
        if "\\" in name and "/" not in name:
            name = name.replace("\\", "/")
        short = _NUMBERED.sub("", name)
        return short if short.lower().endswith(IMAGE_SUFFIXES) else name

    def _search(self, name: str) -> str | None:
        ending = f"/{name}".replace("/./", "/")
        suffixed = name.lower().endswith(IMAGE_SUFFIXES)
        fitting = []
        for inside in self._by_stem.get(Path(name).stem if suffixed else Path(name).name, ()):
            whole = Path(self._base, inside).as_posix()
            if whole.endswith(ending) or (
                not suffixed and whole.rpartition(".")[0].endswith(ending)
            ):
                fitting.append(inside)
        return fitting[0] if len(fitting) == 1 else None

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        """Paths inside the folder by the stem of the file: made only when a name needs a search."""
        found: dict[str, list[str]] = {}
        try:
            files = list_images(self._base)
        except DataError:  # no picture at all: every name is missing
            return found
        for file in files:
            found.setdefault(file.stem, []).append(file.relative_to(self._base).as_posix())
        return found
