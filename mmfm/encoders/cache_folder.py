"""Where things are kept that can be made again: `$MMFM_CACHE`, or the platform's cache folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """The folder for one kind of thing ("precision", "onnx"); it need not exist.

    MMFM_CACHE wins; else ~/Library/Caches on macOS, %LOCALAPPDATA% on Windows, and
    $XDG_CACHE_HOME or ~/.cache elsewhere, each with `mmfm` inside.
    """
    if named := os.environ.get("MMFM_CACHE"):
        return Path(named) / kind
    if sys.platform == "darwin":
        home = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        home = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "mmfm" / kind
