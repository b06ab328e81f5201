"""Which files make up a FlatIndex now: one small JSON file, replaced at every change.

index.json is what readers see. draft.json is a state in the making; it takes the place of
index.json when it is complete, and an interrupted maker goes on from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from mmfm.durable import replacing
from mmfm.errors import DataError, OutputError
from mmfm.index import lock
from mmfm.index.segment_files import is_ours

CURRENT = "index.json"
DRAFT = "draft.json"
VERSION = 2
_OLD_FILES = ("vectors.npy", "entries.jsonl")  # of version 1


@dataclass(frozen=True)
class Manifest:
    """dim: None until the first row. segments: the files of each, with their sizes in bytes.

    about: whatever the owner of the index keeps with it. base: of a draft, the `commit` of the
    index.json that it is to replace, None when there was none.
    """

    dim: int | None
    about: dict[str, Any] = field(default_factory=dict)
    segments: list[dict[str, int]] = field(default_factory=list)
    base: str | None = None
    commit: str = field(default_factory=lambda: uuid4().hex)
    version: int = VERSION


def read(folder: Path, name: str = CURRENT) -> Manifest:
    """Raises DataError when there is none, or it is damaged or of another version."""
    path = folder / name
    try:
        fields = json.loads(path.read_bytes())
        version = fields.get("version")
        if version == VERSION:
            return Manifest(**fields)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _none_at(folder) from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"The index {folder} is damaged ({error}); build it again.") from error
    if version is None:
        raise DataError(f"The index {folder} is damaged ({name} has no version); build it again.")
    age = "an older" if version == 1 else "another"
    raise DataError(
        f"The index {folder} was made by {age} version of mmfm; build it again with "
        f"`mmfm index FOLDER -o {folder}`."
    )


def write(folder: Path, manifest: Manifest, name: str) -> None:
    """Make it the state of the index, all its files being safe on the disk. Raises OSError."""
    with replacing(folder / name) as file:
        file.write(json.dumps(asdict(manifest), separators=(",", ":")).encode())


def exists(folder: Path, name: str = CURRENT) -> bool:
    return (folder / name).is_file()


def check_room(folder: Path) -> None:
    """Raises OutputError when `folder` holds something that is no index."""
    if exists(folder) or exists(folder, DRAFT) or not folder.exists():
        return
    if not folder.is_dir() or any(not _is_known(path.name) for path in folder.iterdir()):
        raise OutputError(f"{folder} exists and is not an index; give another place for it.")


def sweep(folder: Path) -> None:
    """Remove what an earlier state or a killed writer left; only the one writer may do so."""
    used: set[str] = set()
    for name in (CURRENT, DRAFT):
        if exists(folder, name):
            try:
                used.update(_files(read(folder, name).segments))
            except DataError:
                return  # why: what cannot be read may name any of the files
    for path in folder.iterdir():
        if path.name not in used and (is_ours(path.name) or _is_passing(path.name)):
            with suppress(OSError):  # Windows keeps what a reader has mapped; a later sweep gets it
                path.unlink()
    for name in _OLD_FILES:
        (folder / name).unlink(missing_ok=True)


def _files(segments: Iterable[dict[str, int]]) -> set[str]:
    return {name for files in segments for name in files}


def _is_known(name: str) -> bool:
    return name == lock.NAME or is_ours(name) or _is_passing(name)


def _is_passing(name: str) -> bool:
    """A manifest that was being written; see mmfm.durable.replacing."""
    return name.startswith((f".{CURRENT}.", f".{DRAFT}."))


def _none_at(folder: Path) -> DataError:
    if exists(folder, DRAFT):
        return DataError(
            f"The index {folder} is not finished; run `mmfm index FOLDER -o {folder}` to go on."
        )
    what = "is not an index" if folder.exists() else "does not exist"
    return DataError(f"{folder} {what}; make one with `mmfm index FOLDER -o INDEX`.")
