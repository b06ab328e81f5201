"""Making a packed cache: in a folder aside, chunk by chunk, so that a stopped build goes on.

`.NAME.unfinished` beside the cache holds its files and `progress.json`: what is being built, and
how many rows of it are safely on the disk. When all are, it is renamed to NAME.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmfm.data.bad import BadSamples, SampleError
from mmfm.data.batch import Batch
from mmfm.data.cache import ABOUT, PIXELS, STARTS, TEXTS, read_about
from mmfm.data.dataset import ShardDataset
from mmfm.data.loader import Loader
from mmfm.durable import replacing, sweep, sync
from mmfm.errors import DataError, OutputError

FORMAT = 1
CHUNK_BYTES = 2**26  # of pixels that are written and synced together
PROGRESS = "progress.json"


def build_cache(
    dataset: ShardDataset,
    folder: Path,
    size: int,
    mode: str,
    margin: float,
    num_workers: int,
    on_bad: BadSamples | None,
) -> None:
    """See `PackedCache.build`."""
    if not len(dataset):
        raise DataError("the data set is empty, so there is nothing to put into a cache")
    about = {
        "format": FORMAT, "count": len(dataset), "size": size, "mode": mode, "margin": margin,
        "dataset": dataset.fingerprint(),
    }  # fmt: skip
    if _is_built(folder, about):
        return
    aside = folder.with_name(f".{folder.name}.unfinished")
    with _writing(folder), _only_writer(aside):
        if _is_built(folder, about):  # by another process, meanwhile
            with contextlib.suppress(OSError):
                aside.rmdir()
            return
        on_bad = on_bad or BadSamples("raise")
        chunk = max(1, CHUNK_BYTES // (3 * size * size))
        build = _Build(aside, about, on_bad)
        order = _InOrder(build.done, len(dataset), chunk)
        with Loader(
            dataset, order, image_size=size, num_workers=num_workers, on_bad=on_bad, mode=mode,
            margin=margin,
        ) as loader:  # fmt: skip
            for step in range(order.num_steps):
                build.append(loader.batch(step))
        on_bad.check()
        build.finish(folder)


class _InOrder:
    """Rows from `first` to `last` once, in their order; nothing after them."""

    def __init__(self, first: int, last: int, batch_size: int) -> None:
        self.first = first
        self.last = last
        self.share = (0, batch_size)
        self.num_steps = -(-(last - first) // batch_size)

    def batch(self, step: int) -> np.ndarray:
        starts = (self.first + place * self.share[1] for place in (step, step + 1))
        return np.arange(*(min(start, self.last) for start in starts))


class _Build:
    """The unfinished cache: `done` rows of it are on the disk."""

    def __init__(self, folder: Path, about: dict[str, Any], on_bad: BadSamples) -> None:
        self.folder = folder
        self.about = about
        self.on_bad = on_bad
        self.first_record = len(on_bad.records)
        for name in (PROGRESS, STARTS, ABOUT):  # this process is the only writer
            sweep(folder / name)
        progress = self._read_progress()
        if progress is None:
            for path in folder.iterdir():
                path.unlink()
            progress = {"done": 0, "pixels": 0, "texts": 0, "bad": []}
        self.done: int = progress["done"]
        _cut(folder / PIXELS, progress["pixels"])
        _cut(folder / TEXTS, progress["texts"])
        needed = 3 * about["size"] ** 2 * (about["count"] - self.done)
        if (free := shutil.disk_usage(folder).free) < needed:
            raise OutputError(
                f"the cache needs {needed / 1e9:.1f} GB more in {folder.parent}, which has"
                f" {free / 1e9:.1f} GB left; make room or take another folder"
            )
        on_bad.seen(self.done)
        for entry in progress["bad"]:  # what was passed over before the stop counts too
            message = entry.pop("message")
            on_bad.record(SampleError(message, **entry))

    def append(self, batch: Batch) -> None:
        lines = (
            json.dumps([row, key, captions]) + "\n"
            for row, key, captions in zip(batch.rows.tolist(), batch.keys, batch.captions)
        )
        pixels = _append(self.folder / PIXELS, batch.images.tobytes())
        texts = _append(self.folder / TEXTS, "".join(lines).encode())
        self.done += len(batch)
        bad = self.on_bad.records[self.first_record :]
        progress = {"about": self.about, "done": self.done, "pixels": pixels, "texts": texts}
        with replacing(self.folder / PROGRESS) as file:
            file.write(json.dumps({**progress, "bad": bad}).encode())

    def finish(self, folder: Path) -> None:
        text = np.memmap(self.folder / TEXTS, np.uint8, "r")
        starts = np.concatenate([[0], np.flatnonzero(text == ord("\n")) + 1]).astype(np.int64)
        with replacing(self.folder / STARTS) as file:
            np.save(file, starts)
        with replacing(self.folder / ABOUT) as file:
            file.write(json.dumps(self.about, indent=1).encode())
        (self.folder / PROGRESS).unlink()
        self.folder.rename(folder)
        sync(folder.parent)

    def _read_progress(self) -> dict[str, Any] | None:
        """None when there is nothing of this build to go on with."""
        try:
            progress = json.loads((self.folder / PROGRESS).read_bytes())
        except (OSError, ValueError):
            return None
        if progress["about"] != self.about:
            return None
        sizes = ((self.folder / name).stat().st_size for name in (PIXELS, TEXTS))
        wanted = progress["pixels"], progress["texts"]
        return progress if all(has >= want for has, want in zip(sizes, wanted)) else None


def _is_built(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether this very cache is there. Raises DataError, OutputError when something else is."""
    about = read_about(folder)
    if about is None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise OutputError(f"{folder} holds something other than a cache; choose a new folder")
        return False
    different = [name for name in wanted if about.get(name) != wanted[name]]
    if "dataset" in different or "count" in different:
        raise DataError(
            f"the cache {folder} was made of other data than this (or the data has changed since);"
            " delete it, or choose another folder"
        )
    if different:
        has = ", ".join(f"{name}={about.get(name)!r}" for name in different)
        want = ", ".join(f"{name}={wanted[name]!r}" for name in different)
        raise DataError(
            f"the cache {folder} was made with {has}, wanted {want}; delete it, or choose another"
            " folder"
        )
    return True


@contextlib.contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Makes `folder` and waits until no other process of this machine builds in it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows: there the user sees to it
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # let go by the system when the process ends
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write the cache {folder}: {error.strerror or error}; what is done is kept, and"
            " the next build goes on from there"
        ) from error


def _cut(path: Path, size: int) -> None:
    """Forget what was written after the last sync."""
    with open(path, "ab") as stream:
        stream.truncate(size)


def _append(path: Path, data: bytes) -> int:
    """Add to a file, sync it, and return its size."""
    with open(path, "ab") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
        return stream.tell()
