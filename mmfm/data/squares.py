"""Rows of a data set as square pixels; a row that cannot be used gives its place to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmfm.data.bad import SampleError
from mmfm.data.batch import Batch
from mmfm.data.dataset import ShardDataset
from mmfm.data.layouts.picture import cause_of
from mmfm.data.sample import Sample
from mmfm.errors import DataError, ImageError
from mmfm.preprocess.scaled import Crop, decode_square

# why: turn by turn, reading and decoding push each other's code out of the processor's caches; at
# 64 px that costs a fifth of the time
READ_AT_ONCE = 32
MAX_IN_A_ROW = 1000  # unusable rows; so many are not a bad sample but a bad data set


class BadRow(NamedTuple):
    """A row that cannot be used, why, and its encoded picture when that could be read."""

    row: int
    error: SampleError
    data: bytes | None


class Squares:
    """Reads and decodes batches of a data set; picklable, and without a state.

    mode, margin: see `decode_square`. stop_at_first: a bad row ends the batch.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        size: int,
        *,
        mode: str = "shortest",
        margin: float = 2.0,
        stop_at_first: bool = False,
    ) -> None:
        self.dataset = dataset
        self.size = size
        self.mode = mode
        self.margin = margin
        self.stop_at_first = stop_at_first

    def batch(
        self, rows: np.ndarray, crops: Sequence[Crop] | None = None
    ) -> tuple[Batch | None, list[BadRow]]:
        """The samples at `rows`, and what could not be used on the way.

        A bad row's place is taken by the first good one of row + 1, row + 2, ... (after the last
        row comes row 0), whose number stands in the batch. The batch is None when a bad row ended
        it. Raises DataError after 1000 bad rows in a row.
        """
        images = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        found: list[tuple[int, Sample]] = []
        bad: list[BadRow] = []
        for first in range(0, len(rows), READ_AT_ONCE):
            some = rows[first : first + READ_AT_ONCE].tolist()
            read = [self._read(row, bad) for row in some]
            for place, (row, sample) in enumerate(zip(some, read), first):
                crop = crops[place] if crops is not None else None
                if not self._decode(row, sample, images[place], crop, bad):
                    if self.stop_at_first:
                        return None, bad
                    row, sample = self._next_good(row, images[place], crop, bad)
                assert sample is not None
                found.append((row, sample))
        taken = np.array([row for row, _ in found], np.int64)
        captions = [sample.captions for _, sample in found]
        return Batch(images, captions, taken, [sample.key for _, sample in found]), bad

    def _read(self, row: int, bad: list[BadRow]) -> Sample | None:
        try:
            return self.dataset.read(row)
        except SampleError as error:
            bad.append(BadRow(row, error, None))
            return None

    def _decode(
        self, row: int, sample: Sample | None, out: np.ndarray, crop: Crop | None, bad: list[BadRow]
    ) -> bool:
        if sample is None:
            return False
        try:
            decode_square(
                sample.image, self.size, mode=self.mode, margin=self.margin, crop=crop, out=out
            )
        except ImageError as error:
            bad.append(self._undecodable(row, sample, error))
            return False
        return True

    def _next_good(
        self, row: int, out: np.ndarray, crop: Crop | None, bad: list[BadRow]
    ) -> tuple[int, Sample]:
        """The first good sample after `row`, its pixels in `out`."""
        for step in range(1, min(MAX_IN_A_ROW, len(self.dataset))):
            candidate = (row + step) % len(self.dataset)
            sample = self._read(candidate, bad)
            if self._decode(candidate, sample, out, crop, bad):
                assert sample is not None
                return candidate, sample
        raise DataError(
            f"no sample from row {row} on can be used (the last: {bad[-1].error}); `mmfm data"
            " inspect` says what is wrong with the data"
        )

    def _undecodable(self, row: int, sample: Sample, error: ImageError) -> BadRow:
        shard = self.dataset.shards[self.dataset.locate(row)[0]]
        reason = str(error).replace("the image bytes", "its picture", 1)
        text = f"{shard}: sample {sample.key!r} cannot be used: {reason}"
        return BadRow(row, SampleError(text, shard, sample.key, cause_of(error)), sample.image)
