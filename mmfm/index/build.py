"""A folder of pictures and maybe an older index -> the vectors of every readable picture.

Only what is new or changed is embedded: a file is the same when its size and time are, or else
when its sha256 is; equal bytes (copies, renamed files) are embedded once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmfm.errors import DataError, ImageError, ModelError
from mmfm.index.entries import Entry
from mmfm.index.query import Embedder
from mmfm.index.store import Stored
from mmfm.preprocess.folder import list_images
from mmfm.preprocess.images import load_image

# vectors (D,) of those pictures that are known, of the ones asked for, by the sha256 of their bytes
Known = Callable[[list[str]], Mapping[str, np.ndarray]]
_CHUNK = 256  # pictures held decoded at once
_CHUNK_PIXELS = 128_000_000  # and no more than this many pixels: 384 MB of RGB


@dataclass
class Report:
    """What a build did, in pictures; `skipped` has (path, reason) of each unreadable one."""

    added: int = 0
    changed: int = 0
    kept: int = 0
    removed: int = 0
    reused: int = 0  # pictures whose vector came from a store instead of the model
    skipped: list[tuple[str, str]] = field(default_factory=list)
    rebuilt: str | None = None  # why an older index was not used, if so

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def collect(
    model: Embedder,
    folder: Path,
    old: Stored | None,
    report: Report,
    *,
    batch_size: int | None,
    on_error: str,
    progress: bool,
    known: Known | None = None,
) -> tuple[list[Entry], np.ndarray, int]:
    """Compare the folder with `old`, embed what is needed.

    Returns the entries sorted by path, their vectors (N, D) float32, and the time (ns) at which
    the files were looked at. Fills `report`.
    Raises DataError when no picture is readable, ImageError at the first bad one if on_error is
    "raise".
    """
    seen_at_ns = time.time_ns()
    before = {entry.path: entry for entry in old.entries} if old else {}
    vectors = {e.sha256: old.vectors[row] for row, e in enumerate(old.entries)} if old else {}
    # why: in another folder the same name, size and time mean little, so all bytes are compared
    same_folder = old is not None and old.header.folder == str(folder)
    known_at_ns = old.header.created_ns if old and same_folder else 0
    entries = _look(folder, before, known_at_ns, report, on_error)
    fresh = {entry.sha256: entry for entry in entries if entry.sha256 not in vectors}
    if known is not None and fresh:
        there = known(list(fresh))
        vectors.update(there)
        report.reused = sum(entry.sha256 in there for entry in entries)
        fresh = {sha256: entry for sha256, entry in fresh.items() if sha256 not in there}
    bad: dict[str, str] = {}
    chunks = _decoded(folder, list(fresh.values()), bad, on_error)
    with _bar(len(fresh), progress) as bar:
        for shas, images in chunks:
            vectors.update(zip(shas, _embed(model, images, batch_size), strict=True))
            bar.update(len(shas))
    rows = [entry for entry in entries if entry.sha256 not in bad]
    report.skipped += [(e.path, bad[e.sha256]) for e in entries if e.sha256 in bad]
    report.skipped.sort()
    if not rows:
        path, reason = report.skipped[0]
        raise DataError(
            f"None of the {len(report.skipped)} pictures in {folder} can be read; "
            f"the first, {path}: {reason}"
        )
    _count(report, before, rows)
    return rows, np.stack([vectors[entry.sha256] for entry in rows]), seen_at_ns


def _look(
    folder: Path, before: dict[str, Entry], seen_at_ns: int, report: Report, on_error: str
) -> list[Entry]:
    entries = []
    for file in list_images(folder):
        path = file.relative_to(folder).as_posix()
        try:
            entries.append(Entry.of_file(folder, path, before.get(path), seen_at_ns))
        except OSError as error:
            reason = f"Cannot read {file}: {error.strerror}."
            if on_error == "raise":
                raise ImageError(reason) from error
            report.skipped.append((path, reason))
    return entries


def _decoded(
    folder: Path, entries: list[Entry], bad: dict[str, str], on_error: str
) -> Iterator[tuple[list[str], list[Image.Image]]]:
    """Chunks of (sha256s, pictures); what cannot be decoded goes to `bad` with the reason."""
    shas: list[str] = []
    images: list[Image.Image] = []
    pixels = 0
    for entry in entries:
        try:
            image = load_image(folder / entry.path)
        except ImageError as error:
            if on_error == "raise":
                raise
            bad[entry.sha256] = str(error)
            continue
        shas.append(entry.sha256)
        images.append(image)
        pixels += image.width * image.height
        if len(images) >= _CHUNK or pixels >= _CHUNK_PIXELS:
            yield shas, images
            shas, images, pixels = [], [], 0
    if images:
        yield shas, images


def _embed(model: Embedder, images: list[Image.Image], batch_size: int | None) -> np.ndarray:
    options = {} if batch_size is None else {"batch_size": batch_size}
    vectors = np.asarray(model.embed_images(images, **options), dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(images) or not np.isfinite(vectors).all():
        raise ModelError(
            f"The model gave vectors {vectors.shape} for {len(images)} pictures, or NaN; wanted "
            "one finite row each."
        )
    return vectors


def _count(report: Report, before: dict[str, Entry], rows: list[Entry]) -> None:
    for entry in rows:
        known = before.get(entry.path)
        if known is None:
            report.added += 1
        elif known.sha256 == entry.sha256:
            report.kept += 1
        else:
            report.changed += 1
    report.removed = len(before.keys() - {entry.path for entry in rows})


def _bar(total: int, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="embedding", unit="picture", disable=not progress)
