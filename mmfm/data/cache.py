"""Decoded pictures on a disk: square uint8 pixels, memory-mapped, with their texts and keys.

    CACHE/pixels.bin    (N, size, size, 3) uint8, row after row
          texts.jsonl   a line for each row: [row, key, [captions]]
          starts.npy    (N + 1,) int64, where each line starts, and the end
          cache.json    how the pixels were made, and of which data set

A batch costs little more than copying its bytes. A million pictures of 64 px take 12 GB.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmfm.data.bad import BadSamples
from mmfm.data.batch import Batch
from mmfm.data.dataset import ShardDataset
from mmfm.errors import DataError
from mmfm.preprocess.scaled import Crop, fit_square

PIXELS, TEXTS, STARTS, ABOUT = "pixels.bin", "texts.jsonl", "starts.npy", "cache.json"


class PackedCache:
    """N decoded samples; row r is row r of the data set it was made of. Picklable.

    A row that could not be used holds the next one that could, with that one's number.
    size: pixels a side. about: what `cache.json` says.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Opens the cache in `folder`. Raises DataError when there is none or it is damaged."""
        self.folder = Path(folder).absolute()
        about = read_about(self.folder)
        if about is None:
            raise DataError(f"no packed cache in {folder}; build it first, or give its folder")
        self.about = about
        self.size: int = about["size"]
        count: int = about["count"]
        try:
            self._starts = np.load(self.folder / STARTS, mmap_mode="r")
            with open(self.folder / TEXTS, "rb") as stream:
                self._texts = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            shape = (count, self.size, self.size, 3)
            pixels = np.memmap(self.folder / PIXELS, np.uint8, "r", 0, shape)
        except (OSError, ValueError) as error:
            raise DataError(f"the cache {folder} is damaged ({error}); build it again") from error
        self._pixels = np.asarray(pixels)  # why: slices of a memmap are slower than of an array
        if len(self._starts) != count + 1 or self._starts[-1] != len(self._texts):
            raise DataError(f"the cache {folder} is damaged, its texts are cut; build it again")

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> PackedCache:
        """The cache in `folder`. Raises DataError when there is none or it is damaged."""
        return cls(folder)

    @classmethod
    def build(
        cls,
        dataset: ShardDataset,
        folder: str | os.PathLike[str],
        size: int,
        *,
        mode: str = "shortest",
        margin: float = 2.0,
        num_workers: int = 0,
        on_bad: BadSamples | None = None,
    ) -> PackedCache:
        """Decode all of `dataset` into `folder` and open it; see `decode_square` for the settings.

        A cache of the same data set and settings is opened as it is. A build that was stopped goes
        on where it was, and of several processes one builds while the others wait for it. Raises
        DataError when `folder` holds a cache of other data or settings, SampleError for a bad
        sample unless `on_bad` lets it pass, OutputError when it cannot be written.
        """
        from mmfm.data.cache_build import build_cache

        build_cache(dataset, Path(folder), size, mode, margin, num_workers, on_bad)
        return cls(folder)

    def __len__(self) -> int:
        return len(self._pixels)

    def __reduce__(self) -> tuple[type[PackedCache], tuple[Path]]:
        return type(self), (self.folder,)

    def fingerprint(self) -> str:
        """Hex; changes when the data set that it was made of does, or how its pixels were made."""
        return hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()

    def images(self, rows: np.ndarray) -> np.ndarray:
        """(B, size, size, 3) uint8, a copy."""
        return self._pixels[rows]

    def batch(self, rows: np.ndarray) -> Batch:
        """The samples at `rows`, as the loader gives those of the data set."""
        return self._with_texts(rows, self.images(rows))

    def squares(self, size: int, mode: str, *, cropped: bool) -> CachedSquares:
        """What a `Loader` reads from. cropped: every picture is cropped and resized to `size`.

        Raises DataError when the cache holds another size or mode than that.
        """
        if mode != self.about["mode"] or (size != self.size and not cropped):
            raise DataError(
                f"Got image_size={size}, mode={mode!r} for the cache {self.folder} of {self.size}"
                f" px, mode={self.about['mode']!r}; take those or build another cache."
            )
        return CachedSquares(self, size)

    def _with_texts(self, rows: np.ndarray, images: np.ndarray) -> Batch:
        starts, ends = self._starts[rows].tolist(), self._starts[rows + 1].tolist()
        lines = [self._texts[start:end] for start, end in zip(starts, ends, strict=True)]
        entries = json.loads(b"[" + b",".join(lines) + b"]")  # one call is cheaper than many
        taken, keys, captions = zip(*entries, strict=True) if entries else ((), (), ())
        return Batch(images, [tuple(one) for one in captions], np.array(taken, np.int64), [*keys])


class CachedSquares:
    """A cache with the face of `Squares`: no row of it is bad."""

    def __init__(self, cache: PackedCache, size: int) -> None:
        self.cache = cache
        self.size = size

    def batch(self, rows: np.ndarray, crops: Sequence[Crop] | None = None) -> tuple[Batch, list]:
        if crops is None:
            return self.cache.batch(rows), []
        images = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        for place, (row, crop) in enumerate(zip(rows.tolist(), crops, strict=True)):
            images[place] = fit_square(self.cache.images(row), self.size, crop)
        return self.cache._with_texts(rows, images), []


def read_about(folder: Path) -> dict[str, Any] | None:
    """`cache.json` of a folder, None when there is none. Raises DataError when it is damaged."""
    try:
        about = json.loads((folder / ABOUT).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"the cache {folder} is damaged ({error}); build it again") from error
    return about
