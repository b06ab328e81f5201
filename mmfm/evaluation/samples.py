"""Samples of any layout, read when their turn comes and not held."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from mmfm.data.bad import BadSamples, SampleError
from mmfm.data.layouts import Layout, open_layout
from mmfm.data.sample import Sample
from mmfm.errors import ImageError


class Samples(Protocol):
    """So many samples, any of which can be read. Those that cannot be used go to `on_bad`."""

    def __len__(self) -> int: ...

    def read(self, places: Collection[int] | None, on_bad: BadSamples) -> Iterator[Sample]:
        """Those at `places` (numbers from 0; None: all), in order."""
        ...


class Held:
    """Samples that are in memory already."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self.samples: Sequence[Sample] = list(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, places: Collection[int] | None, on_bad: BadSamples) -> Iterator[Sample]:
        chosen = range(len(self)) if places is None else sorted(places)
        on_bad.seen(len(chosen))
        return (self.samples[place] for place in chosen)


class LayoutSamples:
    """The pictures of a layout, their bytes as they lie there, not decoded."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def __len__(self) -> int:
        return self.layout.count()

    def read(self, places: Collection[int] | None, on_bad: BadSamples) -> Iterator[Sample]:
        for entry in self.layout.entries(on_bad, places):
            try:
                data = entry.read()
            except SampleError as error:
                on_bad.record(error)
            except (ImageError, OSError) as error:
                told = f"{entry.name} cannot be read: {error}"
                on_bad.record(self.layout.fault(entry.name, "unreadable", told))
            else:
                yield Sample(entry.key, data, entry.captions, entry.meta)


class Chosen:
    """Those of other samples for which `keep(sample)` holds; all are read once to find them."""

    def __init__(self, samples: Samples, keep: Callable[[Sample], bool]) -> None:
        self.samples = samples
        self.places = _kept(samples, keep, 0, len(samples))

    def __len__(self) -> int:
        return len(self.places)

    def read(self, places: Collection[int] | None, on_bad: BadSamples) -> Iterator[Sample]:
        chosen = self.places if places is None else [self.places[place] for place in places]
        return self.samples.read(chosen, on_bad)


def open_samples(
    path: str | os.PathLike[str], *, kind: str | None = None, images: str | Path | None = None
) -> LayoutSamples:
    """The samples of a folder, table, tar, pattern or URL; arguments as `open_layout` has them."""
    return LayoutSamples(open_layout(path, kind=kind, images=images))


def as_samples(samples: Any) -> Samples:
    """A list of samples, or what reads them already."""
    return samples if hasattr(samples, "read") else Held(samples)


def _kept(samples: Samples, keep: Callable[[Sample], bool], start: int, stop: int) -> list[int]:
    """Places from `start` to `stop` whose samples are kept. Where one cannot be read, which moves
    those after it, the halves are read apart.
    """
    skip = BadSamples("skip", max_fraction=1.0)
    flags = [keep(sample) for sample in samples.read(range(start, stop), skip)]
    if len(flags) == stop - start:
        return [start + place for place, kept in enumerate(flags) if kept]
    if stop - start < 2:
        return []
    middle = (start + stop) // 2
    return _kept(samples, keep, start, middle) + _kept(samples, keep, middle, stop)
