"""What every layout offers: its name, how many pictures it holds, and those as samples."""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mmfm.data.bad import BadSamples, SampleError
from mmfm.data.layouts.words import is_text
from mmfm.data.sample import Sample
from mmfm.errors import ImageError
from mmfm.preprocess.threads import map_in_order

if TYPE_CHECKING:
    from mmfm.data.layouts.picture import Picture

MAX_BYTES = 256 << 20  # a larger file is no picture that `load_image` would take
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9]+")


@dataclass(frozen=True)
class Entry:
    """One picture of a layout, its bytes not read yet.

    key: the name of its sample. name: what an error calls it: the path inside the layout.
    captions: what is said of it, the plainest first. meta: what else is known.
    read: gives the encoded picture; raises SampleError or OSError.
    """

    key: str
    name: str
    captions: tuple[str, ...]
    meta: dict
    read: Callable[[], bytes] = field(compare=False)


class _Refused(NamedTuple):
    """A picture that cannot be used, and its bytes if there were any."""

    error: SampleError
    data: bytes | None


class Layout(ABC):
    """Pictures with captions, in one of the ways people keep them.

    kind: its one word, for programs. name: how people call it. root: what was opened. notes:
    sentences that say which rule was applied where the folder could be read in two ways, and what
    is left out. converted: how many pictures of each format the last `samples` had to encode anew.
    """

    kind: str
    name: str
    are_shards = False
    lists_quickly = True  # entries() reads no picture, so all of them can be looked through

    def __init__(self, root: Path | str) -> None:
        """root: a path, or what stands for one: a pattern or a URL."""
        self.root = root
        self.notes: list[str] = []
        self.converted: Counter[str] = Counter()

    @abstractmethod
    def count(self) -> int:
        """How many places it has: pictures that it names, whether they can be used or not."""

    def listed_faults(self) -> list[tuple[SampleError, int]]:
        """What is lost without having a place (a tar cut off), and about how many pictures each."""
        return []

    @abstractmethod
    def _entries(self, places: Collection[int] | None) -> Iterator[Entry | SampleError]:
        """One for each place, in order; an error for a picture that has no entry."""

    def entries(self, on_bad: BadSamples, places: Collection[int] | None = None) -> Iterator[Entry]:
        """Its pictures in a fixed order, nothing decoded; what has no entry goes to `on_bad`.

        places: numbers in 0..count()-1; only these are given, or all when it is None.
        """
        faults = self.listed_faults()
        # why all at once: bad ones often lie together, and the allowed share is one of the whole
        on_bad.seen(
            (self.count() if places is None else len(places)) + sum(lost for _, lost in faults)
        )
        for fault, lost in faults:
            on_bad.record(fault, samples=lost)
        for entry in self._entries(None if places is None else frozenset(places)):
            if isinstance(entry, Entry) and not is_text(
                json.dumps([entry.captions, entry.meta], ensure_ascii=False)
            ):
                told = f"a text of {entry.name} holds half a surrogate pair; write it again"
                entry = self.fault(entry.name, "encoding", told)
            if isinstance(entry, Entry):
                yield entry
            else:
                on_bad.record(entry)

    def samples(
        self, on_bad: BadSamples, *, check: bool = True, size: int | None = None, workers: int = 1
    ) -> Iterator[Sample]:
        """Its pictures as samples that a shard can hold: PNG, JPEG or WebP.

        The bytes of a file stay as they are, but GIF, BMP and TIFF (the first frame) become PNG of
        equal pixels. meta gains `width` and `height`, upright, in pixels. Keys are unique and
        depend on the path alone; an order or another file beside does not change them.

        check: decode each picture, so that a damaged one goes to `on_bad` now and not in training.
        size: the shortest side is brought down to this, where it is longer (JPEG stays JPEG at
        quality 95, all else becomes PNG). workers: threads that read and decode; the samples and
        their order are the same for any number.
        Raises what `on_bad` raises, DataError where the layout as a whole cannot be read.
        """
        self.converted.clear()
        make = partial(self._made, check=check, size=size)
        for entry, made in map_in_order(make, self.entries(on_bad), workers):
            if isinstance(made, _Refused):
                on_bad.record(made.error, made.data)
                continue
            self.converted[made.format] += made.converted
            meta = {**entry.meta, "width": made.width, "height": made.height}
            yield Sample(entry.key, made.data, entry.captions, meta)

    def picture(self, entry: Entry, on_bad: BadSamples) -> Picture | None:
        """The picture of an entry, decoded to check it, or None when it went to `on_bad`."""
        made = self._made(entry, check=True, size=None)
        if isinstance(made, _Refused):
            on_bad.record(made.error, made.data)
            return None
        return made

    def _made(self, entry: Entry, *, check: bool, size: int | None) -> Picture | _Refused:
        from mmfm.data.layouts.picture import cause_of, portable

        data = None
        try:
            data = entry.read()
            return portable(data, entry.name, check=check, size=size)
        except SampleError as error:
            return _Refused(error, data)
        except ImageError as error:
            return _Refused(self.fault(entry.name, cause_of(error), str(error)), data)
        except OSError as error:
            told = f"{entry.name} cannot be read: {error.strerror or error}"
            return _Refused(self.fault(entry.name, "unreadable", told), data)

    def fault(self, key: str, cause: str, told: str) -> SampleError:
        """The error for one picture of this layout; `told` is the sentence."""
        return SampleError(" ".join(told.split()), str(self.root), key, cause)


def key_of(name: str) -> str:
    """A sample key for a path inside a layout: readable, without dots or slashes, its own.

    The letters and digits of the path, then 64 bits of the SHA-256 of the whole path.
    """
    words = _NOT_PLAIN.sub("-", name.rpartition(".")[0] or name).strip("-")[-32:].strip("-")
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"{words}-{digest}" if words else digest


def read_file(path: Path) -> bytes:
    """The bytes of a picture file. Raises OSError; ImageError for a pipe or beyond `MAX_BYTES`."""
    if not path.is_file():  # opening a pipe would wait for ever
        raise ImageError(f"{path.name} is not a regular file, so it is not a picture.")
    with open(path, "rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ImageError(f"{path.name} is over {MAX_BYTES >> 20} MiB, too large for a picture.")
    return data
