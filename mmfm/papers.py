"""What a bundle says of itself in words and numbers: the files beside its weights.

Neither torch nor a model is needed for it. `manifest.json` lists every file of the bundle with its
size and SHA-256, but for itself and README.md, which is the model card and people's to edit.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mmfm.errors import ModelError

CONFIG, METRICS, COMPUTE = "config.json", "metrics.json", "compute.json"
ATTRIBUTION, MANIFEST, README = "ATTRIBUTION.md", "manifest.json", "README.md"
_MEASURED = ("figures", "bias", "commands")
_UNLISTED = (MANIFEST, README)
_LICENCE = re.compile(r"\[([^\]]+)\]\([^)]*\)")


@dataclass(frozen=True)
class Papers:
    """Empty where a file is absent. files, manifest: name -> {"bytes", "sha256"}."""

    config: dict[str, Any]
    metrics: dict[str, Any]
    compute: dict[str, Any]
    attribution: str
    files: dict[str, dict[str, Any]]
    manifest: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> Papers:
        """Of a bundle. Raises ModelError naming what cannot be read."""
        told = [_json(folder / name) for name in (CONFIG, METRICS, COMPUTE, MANIFEST)]
        config, metrics, compute, manifest = told
        try:
            attribution = folder / ATTRIBUTION
            text = attribution.read_text(encoding="utf-8") if attribution.is_file() else ""
            return cls(config, metrics, compute, text, files_of(folder), manifest.get("files", {}))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{folder} cannot be read ({error}); copy or download it again"
            ) from error

    @property
    def changed(self) -> list[str] | None:
        """Files that are not as the manifest has them, or on one side only; None without one."""
        if not self.manifest:
            return None
        names = sorted(set(self.files) | set(self.manifest))
        return [name for name in names if self.files.get(name) != self.manifest.get(name)]

    @property
    def licences(self) -> dict[str, dict[str, Any]]:
        """Licence -> {"sets": names, "pictures": count} of the data, from ATTRIBUTION.md."""
        found: dict[str, dict[str, Any]] = {}
        for row in self.attribution.splitlines():
            cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
            if len(cells) == 5 and cells[-1].isdecimal():
                linked = _LICENCE.fullmatch(cells[3])
                name = linked[1] if linked else cells[3]
                one = found.setdefault(name, {"sets": [], "pictures": 0})
                one["sets"].append(cells[0])
                one["pictures"] += int(cells[-1])
        return found


def unmeasured(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """metrics.json without its figures: what stays true of weights that were trained further."""
    return {name: value for name, value in metrics.items() if name not in _MEASURED}


def files_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file that a manifest lists; hidden ones are not the bundle's."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith((".", "__")) for part in name.parts)
        if path.is_file() and not hidden and name.as_posix() not in _UNLISTED:
            with path.open("rb") as file:
                digest = _digest(file)
            found[name.as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    return found


def manifest_of(files: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of manifest.json."""
    return json.dumps({"files": files}, indent=2) + "\n"


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()  # why not file_digest: it came with Python 3.11
    while part := file.read(1 << 20):
        digest.update(part)
    return digest.hexdigest()


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); copy the bundle again") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} is no JSON object; copy the bundle again")
    return found
