"""Where results go, checked before the work: nobody should lose an hour to a mistyped folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mmfm.errors import OutputError


def writable_file(path: str | Path, suffixes: tuple[str, ...]) -> Path:
    """`path`, if a file with one of `suffixes` can be written there; else OutputError."""
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise OutputError(f"cannot write '{path}': the name must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise OutputError(f"cannot write '{path}': it is a folder; name a file")
    if path.exists() and not os.access(path, os.W_OK):
        raise OutputError(f"cannot write '{path}': it is write-protected; choose another name")
    _expect_writable(path.parent)
    return path


def writable_folder(path: str | Path) -> Path:
    """`path` as a folder that exists (made if need be) and takes files; else OutputError."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise OutputError(
            f"cannot make the folder '{path}' ({reason.strerror}); choose another place"
        ) from reason
    _expect_writable(path)
    return path


def _expect_writable(folder: Path) -> None:
    if not folder.is_dir():
        raise OutputError(f"there is no folder '{folder}' to write into; make it first")
    try:  # why not os.access: it says yes to root and to some network disks that then refuse
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as reason:
        raise OutputError(
            f"cannot write into the folder '{folder}' ({reason.strerror}); choose another place"
        ) from reason
