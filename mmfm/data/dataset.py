"""Shards as one sequence of samples, any of which can be read at once."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import threading
import warnings
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mmfm.data.bad import BadSamples, SampleError
from mmfm.data.remote import is_remote
from mmfm.data.sample import EXTENSIONS, IMAGE_EXTENSIONS, Sample
from mmfm.data.sources import expand
from mmfm.data.tar.file import Tar, open_tar
from mmfm.data.tar.index import IndexHeader, Spot, TarIndex, read_members
from mmfm.data.tar.index_folder import index_header, open_index
from mmfm.data.tar.members import TarFault
from mmfm.errors import DataError

Source = str | os.PathLike | Iterable[str | os.PathLike]
REMOTE_WORKERS = 16
MAX_OPEN = 128  # shards a process keeps open; two file descriptors each


class ShardDataset:
    """N samples in shards; row r is the r-th, shard by shard. Picklable, and safe to share between
    threads and forked processes: files are opened when first read, in the process that reads.

    shards: paths or URLs. counts: (S,) int64, samples in each.
    """

    def __init__(
        self,
        shards: list[str],
        headers: Sequence[IndexHeader | SampleError],
        index_folder: str | None,
    ) -> None:
        """Use `open`; headers are those of the shards' indexes, or why there is none."""
        found = [header if isinstance(header, IndexHeader) else None for header in headers]
        self.shards = shards
        self.index_folder = index_folder
        self.counts = np.array([header.num_samples if header else 0 for header in found], np.int64)
        self._digests = [header.digest if header else "" for header in found]
        self._stamps = [
            hashlib.sha256(f"{header[:4]}".encode()).hexdigest()[:32] if header else ""
            for header in found
        ]
        self._ends = np.cumsum(self.counts).tolist()  # a list: bisecting it is far faster
        self._forget()

    @classmethod
    def open(
        cls,
        source: Source,
        *,
        index_folder: str | os.PathLike[str] | None = None,
        bad: BadSamples | None = None,
        num_workers: int = 0,
    ) -> ShardDataset:
        """Find the shards of `source` and index those that are not yet indexed.

        source: a folder of `.tar`, one `.tar`, a pattern with `*` or `{00..07}`, fsspec URLs, or a
        list of these. index_folder: where indexes are kept; None puts each beside its shard, or,
        where that is not possible, into the user's cache. bad: what becomes of samples and shards
        that cannot be used; None raises at the first. num_workers: processes that index (threads
        for remote shards, 16 when not given). Raises SampleError, DataError.
        """
        shards = expand(source)
        folder = None if index_folder is None else os.fspath(Path(index_folder).absolute())
        policy, headers = bad or BadSamples(), []
        for shard, header in zip(shards, _headers(shards, folder, num_workers), strict=True):
            faults = _faults(shard, header)
            if faults and policy.on_error == "raise":
                raise faults[0][0]
            headers.append(header)
        dataset = cls(shards, headers, folder)
        dataset._account(headers, policy)
        return dataset

    def __len__(self) -> int:
        return self._ends[-1]

    def locate(self, row: int) -> tuple[int, int]:
        """Number of the shard that holds `row`, and the place inside it. Raises IndexError."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        shard = bisect_right(self._ends, row)
        return shard, int(row) - (self._ends[shard - 1] if shard else 0)

    def read(self, row: int) -> Sample:
        """The sample at `row`. Raises SampleError naming shard and key."""
        shard, place = self.locate(row)
        tar, index = self._open(shard)
        return read_sample(self.shards[shard], tar, index, place)

    def key(self, row: int) -> str:
        """Key of the sample at `row`; only the index is read."""
        shard, place = self.locate(row)
        return self._open(shard)[1].key(place)

    def image_bytes(self, row: int) -> bytes:
        """The encoded picture alone, without reading or parsing its texts."""
        shard, place = self.locate(row)
        tar, index = self._open(shard)
        members = index.members(place)
        kind = next(kind for kind in members if kind in IMAGE_EXTENSIONS)
        picture = {kind: members[kind]}
        return read_parts(self.shards[shard], tar, index.key(place), picture)[kind]

    def fingerprint(self) -> str:
        """Hex; changes when a shard is added, renamed, or its samples change place, key or size."""
        digest = hashlib.sha256()
        for shard, content in zip(self.shards, self._digests, strict=True):
            digest.update(f"{shard.rsplit('/', 1)[-1]} {content}\n".encode())
        return digest.hexdigest()

    def stamp(self, shard: int) -> str:
        """Hex; changes whenever the file of shard number `shard` is replaced, whatever it holds."""
        return self._stamps[shard]

    def __getstate__(self) -> dict:
        state = self.__dict__.copy()
        for name in ("_opened", "_verified", "_lock"):
            del state[name]
        return state

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._opened: OrderedDict[int, tuple[Tar, TarIndex]] = OrderedDict()
        self._verified: set[int] = set()  # shards whose index was hashed in this process
        self._lock, self._process = threading.Lock(), os.getpid()

    def _open(self, number: int) -> tuple[Tar, TarIndex]:
        """Tar and index of a shard; those used longest ago are closed when their last user ends."""
        if self._process != os.getpid():  # a fork: connections to stores do not survive it
            self._forget()
        with self._lock:
            found = self._opened.pop(number, None) or self._load(number)
            self._opened[number] = found
            if len(self._opened) > MAX_OPEN:
                self._opened.popitem(last=False)
            return found

    def _load(self, number: int) -> tuple[Tar, TarIndex]:
        shard = self.shards[number]
        tar = open_tar(shard)
        digest = self._digests[number]
        known = digest if number in self._verified else ""
        header, index = open_index(shard, tar, self.index_folder, known)
        self._verified.add(number)
        if header.digest != digest:
            text = f"{shard} has changed since the data set was opened; open it again"
            raise SampleError(text, shard, cause="changed")
        return tar, index

    def _account(self, headers: Sequence[IndexHeader | SampleError], policy: BadSamples) -> None:
        """Tell `policy` of every fault in the indexes, and warn once of members not read."""
        usual = int(self.counts[self.counts > 0].mean()) if len(self) else 1
        num_lost = 0
        ignored: dict[str, str] = {}
        for shard, header in zip(self.shards, headers, strict=True):
            for error, rest in _faults(shard, header):
                have = header.num_samples if isinstance(header, IndexHeader) else 0
                lost = max(1, usual - have) if rest else 1  # how many the rest held, about
                policy.record(error, samples=lost)
                num_lost += lost
            if isinstance(header, IndexHeader):
                ignored.update(dict(header.ignored) | ignored)
        policy.seen(len(self) + num_lost)
        policy.check()
        if ignored:
            names = ", ".join(f".{extension} (as {name})" for extension, name in ignored.items())
            text = (
                f"members that are not read, since only KEY.({'|'.join(EXTENSIONS)}) are: {names}"
            )
            if not len(self):
                raise DataError(f"no samples in {self.shards[0]} and the other shards; {text}")
            warnings.warn(text, stacklevel=3)


def _headers(
    shards: list[str], folder: str | None, num_workers: int
) -> Iterator[IndexHeader | SampleError]:
    """Headers of the shards' indexes in order, made if need be by several workers at once."""
    pool: Executor
    if any(is_remote(shard) for shard in shards):
        pool = ThreadPoolExecutor(num_workers or REMOTE_WORKERS)
    elif num_workers > 1:
        pool = ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"))
    else:
        yield from (_header(shard, folder) for shard in shards)
        return
    try:
        yield from pool.map(_header, shards, [folder] * len(shards))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _header(shard: str, folder: str | None) -> IndexHeader | SampleError:
    try:
        return index_header(shard, open_tar(shard), folder)
    except SampleError as error:
        return error


def _faults(shard: str, header: IndexHeader | SampleError) -> list[tuple[SampleError, bool]]:
    """What is wrong with a shard, and whether the rest of the shard is lost with it."""
    if isinstance(header, SampleError):
        return [(header, True)]
    return [(fault.error(shard), fault.rest) for fault in header.faults]


def read_sample(shard: str, tar: Tar, index: TarIndex, place: int) -> Sample:
    """The sample at a place of a shard. Raises SampleError naming shard and key."""
    key = index.key(place)
    parts = read_parts(shard, tar, key, index.members(place))
    return Sample.from_members(key, parts, shard)


def read_parts(shard: str, tar: Tar, key: str, members: dict[str, Spot]) -> dict[str, bytes]:
    """Bytes of some members of one sample. Raises SampleError naming shard and key."""
    try:
        return read_members(tar.read, members)
    except TarFault as fault:
        text = f"{shard}: sample {key!r} {fault}; open the data set again"
        raise SampleError(text, shard, key, fault.cause) from None
    except SampleError as error:
        raise SampleError(f"{error} (sample {key!r})", shard, key, error.cause) from error
