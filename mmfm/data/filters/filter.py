"""What a filter is: a name, its settings, and a word on each sample.

A `SampleFilter` needs one sample to decide, a `SetFilter` needs them all. A `MeasuredFilter` is a
set filter that measures each sample (a pure function, so any process may do it), keeps the small
measures, and decides at the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfm.data.sample import Sample


@dataclass(frozen=True)
class Drop:
    """Why a sample goes.

    reason: a short stable word, counted in the report. value: what was measured, JSON.
    of: row of the sample that stays in its place, for a duplicate.
    """

    reason: str
    value: Any = None
    of: int | None = None


class Filter(ABC):
    """name: stands in the report. Settings are JSON and go to the manifest."""

    name: str

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that decides what this filter drops."""

    def edit(self, sample: Sample) -> Sample:
        """The sample as it is kept: a filter of captions takes out the bad ones of several."""
        return sample

    def warning(self, fields: dict[str, int], kept: int) -> str | None:
        """A sentence when the filter cannot have done its work; `fields`: how often each meta
        field stood in the samples that were kept."""
        return None


class SampleFilter(Filter):
    """Decides on a sample by itself; order and company of samples do not matter."""

    @abstractmethod
    def judge(self, sample: Sample) -> Drop | None:
        """None keeps the sample. Raises ImageError for a picture that cannot be read."""


class SetFilter(Filter):
    """Decides on a sample by all others."""

    @abstractmethod
    def judge_all(self, rows: np.ndarray) -> Iterable[tuple[int, Drop]]:
        """What to drop of `rows` (n,) int64, rising: all that the filters before let through."""


class MeasuredFilter(SetFilter):
    """A set filter that first looks at every sample by itself."""

    @abstractmethod
    def forget(self) -> None:
        """Begin anew: a filter may serve several runs, one after the other."""

    @abstractmethod
    def measure(self, sample: Sample) -> Any:
        """What `see` will want to know of the sample; small, picklable.

        Raises ImageError for a picture that cannot be read.
        """

    @abstractmethod
    def see(self, rows: list[int], measures: list[Any]) -> None:
        """Take in measures; rows come in rising order."""


class Table:
    """Measures by row, as one array: what a `MeasuredFilter` keeps of the samples it saw."""

    def __init__(self, dtype: Any, shape: tuple[int, ...] = ()) -> None:
        self._dtype, self._shape = np.dtype(dtype), shape
        self._rows: list[np.ndarray] = []
        self._values: list[np.ndarray] = []

    def add(self, rows: list[int], values: Sequence[Any] | np.ndarray) -> None:
        self._rows.append(np.asarray(rows, np.int64))
        self._values.append(np.asarray(values, self._dtype).reshape(len(rows), *self._shape))

    def at(self, rows: np.ndarray) -> np.ndarray:
        """(n, *shape) measures of rows that were all added before."""
        if not self._rows:
            return np.empty((0, *self._shape), self._dtype)
        if len(self._rows) > 1:  # joined once, at the first question
            self._rows = [np.concatenate(self._rows)]
            self._values = [np.concatenate(self._values)]
        return self._values[0][np.searchsorted(self._rows[0], rows)]
