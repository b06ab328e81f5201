"""Pictures that are in an index already: their vectors are taken from there, without a model."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from mmfm.errors import DataError
from mmfm.index.entries import file_sha256
from mmfm.index.protocol import VectorIndex


class KnownPictures:
    """The rows of an index by the bytes of their pictures."""

    def __init__(self, engine: VectorIndex, folder: Path) -> None:
        self._engine = engine
        self._folder = folder

    def vector(self, source: Any) -> np.ndarray | None:
        """(D,) of a picture file or the bytes of one; None when it is not in the index."""
        sha256 = _sha256(source)
        if sha256 is None or not len(self._engine):
            return None
        name = self._named(source, sha256) or self._same_bytes(sha256)
        return None if name is None else self._engine.vectors([name])[0]

    def _named(self, source: Any, sha256: str) -> str | None:
        """The row of the file itself, which is found at once where it is in the folder."""
        if isinstance(source, bytes):
            return None
        path = Path(os.path.abspath(source))
        if not path.is_relative_to(self._folder):
            return None
        name = path.relative_to(self._folder).as_posix()
        try:
            [metadata] = self._engine.metadata([name])
        except DataError:
            return None
        return name if metadata.get("sha256") == sha256 else None

    def _same_bytes(self, sha256: str) -> str | None:
        """Some row of equal bytes; the query's direction does not matter."""
        direction = np.ones(self._engine.dim, np.float32)
        [ids] = self._engine.search(direction, 1, {"sha256": sha256}).ids
        return ids[0] if ids else None


def _sha256(source: Any) -> str | None:
    try:
        if isinstance(source, bytes):
            return hashlib.sha256(source).hexdigest()
        if isinstance(source, (str, os.PathLike)):
            return file_sha256(Path(source))
    except (OSError, ValueError):  # it is told with its reason when it is read as a picture
        pass
    return None
