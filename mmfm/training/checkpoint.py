"""Checkpoints that are whole or not there: temporary folder, fsync, rename, then the pointer."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

KEEP = 2  # newest checkpoints kept


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write `folder/step-N`; an interrupted call leaves only a `.tmp` folder that is ignored."""
    target = folder / f"step-{step:07d}"
    temporary = target.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    torch.save(state, temporary / "state.pt")
    digest = sha256((temporary / "state.pt").read_bytes()).hexdigest()
    (temporary / "manifest.json").write_text(json.dumps({"step": step, "sha256": digest}))
    for path in (temporary / "state.pt", temporary / "manifest.json", temporary):
        _fsync(path)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)
    _fsync(folder)
    for old in sorted(folder.glob("step-*[0-9]"))[:-KEEP]:
        shutil.rmtree(old)
    return target


def load_newest(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint whose hash is right, or None; a damaged one is named and passed over.

    Tensors only (`weights_only`), so that a foreign file cannot run code.
    """
    for path in sorted(folder.glob("step-*[0-9]"), reverse=True):
        try:
            manifest = json.loads((path / "manifest.json").read_text())
            data = (path / "state.pt").read_bytes()
            if sha256(data).hexdigest() != manifest["sha256"]:
                raise ValueError("its hash is wrong")
            state = torch.load(path / "state.pt", weights_only=True)
        except (OSError, ValueError, KeyError) as error:
            warnings.warn(f"{path} is damaged ({error}); falling back to the one before",
                          stacklevel=2)  # fmt: skip
            continue
        return manifest["step"], state
    return None


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
