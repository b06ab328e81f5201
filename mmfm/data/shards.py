"""Image-text shards: tar files in which a sample is a run of members with one key.

`000000007.json 000000007.png 000000007.txt` make one sample (the webdataset and img2dataset
layout). webdataset writes them and opens what can only be streamed; tars are read by our own code,
because webdataset 1.0.2 splits interleaved samples in two without a word, takes a tar that was cut
for a shorter one, and runs code that a shard may carry.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import os
import random
import shutil
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mmfm.data.bad import BadSamples, SampleError
from mmfm.data.dataset import read_sample
from mmfm.data.remote import file_system
from mmfm.data.sample import EXTENSIONS, Sample
from mmfm.data.sources import braces
from mmfm.data.tar.file import LocalTar
from mmfm.data.tar.index import MAX_MEMBER, Grouping, TarIndex, scan
from mmfm.data.tar.index_folder import SUFFIX
from mmfm.data.tar.members import TarFault, walk
from mmfm.errors import DataError, OutputError

WEBDATASET_SCHEMES = ("http", "https", "gs", "hf", "ais", "sftp", "ftps", "scp")
ZIPPED = (".tar.gz", ".tgz")
SIGPIPE = [141, -13]  # how a command ends whose output is no longer wanted


def write_shards(samples: Iterable[Sample], folder: str | Path, max_count: int = 2000) -> int:
    """Write samples as `folder/00000.tar, 00001.tar, ...` and return how many were written.

    The first caption goes to `.txt`, all of them to `captions` in `.json` beside the meta. Equal
    samples give equal bytes. Shards appear in `folder` only when all are written, and replace the
    shards that were there. Raises DataError for a sample that cannot be stored, OutputError when
    `folder` holds anything but shards.
    """
    folder = Path(folder)
    if folder.exists() and any(not _is_shard(path.name) for path in folder.iterdir()):
        raise OutputError(f"{folder} holds files that are not shards; choose an empty folder")
    unfinished = folder.with_name(f".{folder.name}.unfinished-{os.getpid()}")
    with _write_errors(folder):
        unfinished.mkdir(parents=True)
    try:
        count = _write(samples, unfinished, folder, max_count)
        with _write_errors(folder):
            _put_in_place(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return count


def _put_in_place(new: Path, folder: Path) -> None:
    """`new` becomes `folder`; what was there goes only when that has worked."""
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _is_shard(name: str) -> bool:
    return name.endswith(".tar") or f".tar{SUFFIX}" in name  # also one that a crash left


def _write(samples: Iterable[Sample], folder: Path, target: Path, max_count: int) -> int:
    """Shards into `folder`, which is to become `target`; how many samples there were."""
    seen: set[str] = set()
    source = iter(samples)
    for number in itertools.count():
        part = list(itertools.islice(source, 1))
        if number and not part:  # an empty split still has one shard, without samples
            break
        name = f"{number:05d}.tar"
        with _NewShard(folder / name, target / name) as shard:
            for sample in itertools.chain(part, itertools.islice(source, max_count - 1)):
                shard.write(_members(sample, seen))
    return len(seen)


class _NewShard:
    """A tar that is written sample by sample; leaving the block ends it, and waits for the disk.

    Raises OutputError about `told`, the name that it will have, when a write fails; errors of what
    gives the samples pass through as they are.
    """

    def __init__(self, path: Path, told: Path) -> None:
        os.environ["WDS_SECURE"] = "1"  # read by webdataset when it is imported
        from webdataset.writer import TarWriter

        self._told = told
        with _write_errors(told):
            self._stream = open(path, "wb")  # noqa: SIM115  closed on leaving the block
            self._tar = TarWriter(self._stream, user="mmfm", group="mmfm", mtime=0, encoder=False)

    def __enter__(self) -> _NewShard:
        return self

    def write(self, members: dict[str, str | bytes]) -> None:
        with _write_errors(self._told):
            self._tar.write(members)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        given_up = kind is not None  # its file goes with its folder
        with contextlib.suppress(OSError) if given_up else _write_errors(self._told), self._stream:
            self._tar.close()
            self._stream.flush()
            os.fsync(self._stream.fileno())


def _members(sample: Sample, seen: set[str]) -> dict[str, str | bytes]:
    if not sample.key or set(sample.key) & set("./\\"):
        raise DataError(f"sample key {sample.key!r} has a dot or slash; use letters and digits")
    if sample.key in seen:
        raise DataError(f"sample key {sample.key!r} comes twice; give every sample its own")
    seen.add(sample.key)
    meta = {**sample.meta, "captions": list(sample.captions)}
    return {
        "__key__": sample.key,
        _image_extension(sample): sample.image,
        "txt": (sample.captions[0] if sample.captions else "").encode(),
        "json": json.dumps(meta, ensure_ascii=False, sort_keys=True).encode(),
    }


def _image_extension(sample: Sample) -> str:
    if sample.image.startswith(b"\x89PNG"):
        return "png"
    if sample.image.startswith(b"\xff\xd8"):
        return "jpg"
    if sample.image[:4] == b"RIFF" and sample.image[8:12] == b"WEBP":
        return "webp"
    raise DataError(f"sample {sample.key!r} is no PNG, JPEG or WebP; encode the picture as one")


def read_shards(folder: str | Path) -> Iterator[Sample]:
    """Samples of every `*.tar` in `folder`, shard by shard in name order.

    A shard is checked whole before its first sample is given: only the extensions of `EXTENSIONS`,
    members of a sample side by side, exactly one picture per sample, the same kinds of members in
    every sample, a complete end. Raises DataError naming shard and key otherwise, and when the
    folder holds no shard. `ShardDataset` reads shards of other makers, which need not be so even.
    """
    folder = Path(folder)
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        raise DataError(f"no .tar shards in {folder}; build them first or give another folder")
    for shard in shards:
        yield from read_shard(shard)


def read_shard(shard: str | Path) -> Iterator[Sample]:
    """Samples of one tar file, in its order; see `read_shards` for the checks and errors."""
    name = os.fspath(shard)
    tar = LocalTar(name)
    index = scan(tar.read, tar.size)
    _expect_even(name, index)
    for place in range(len(index)):
        yield read_sample(name, tar, index, place)


def _expect_even(shard: str, index: TarIndex) -> None:
    if index.faults:
        raise index.faults[0].error(shard)
    for _, member in index.ignored:
        wanted = " ".join(f".{extension}" for extension in EXTENSIONS)
        raise DataError(f"{shard}: member {member!r} is not a file of these kinds: {wanted}")
    for kind in {"txt", "json"} & set(index.kinds):
        lacking = (index.spots["offset"][:, index.kinds.index(kind)] == 0).nonzero()[0]
        if len(lacking):
            key = index.key(int(lacking[0]))
            text = f"sample {key!r} is incomplete, it has no .{kind} as others here do"
            raise SampleError(f"{shard}: {text}", shard, key, "incomplete")


def stream_shards(
    urls: str | Path | Iterable[str | Path],
    *,
    bad: BadSamples | None = None,
    allow_pipes: bool = False,
    shuffle_buffer: int = 0,
    seed: int = 0,
) -> Iterator[Sample]:
    """Samples of shards that can only be read from start to end, in the order given.

    urls: paths, URLs (those of webdataset and of fsspec), `-` for standard input, `.tar.gz` too;
    `{00..07}` is expanded. `pipe:COMMAND` runs COMMAND in a shell and is refused unless
    `allow_pipes`: a list of shards may come from strangers. bad: what becomes of samples that
    cannot be used; None raises at the first. shuffle_buffer: samples held back to be mixed.

    A stream has no random access: its order is not that of `Order`, and it resumes only by reading
    again from the start and dropping what was seen. Take `ShardDataset` wherever shards lie on a
    disk or a store that answers ranges. Raises SampleError naming shard and key.
    """
    listed = [urls] if isinstance(urls, str | Path) else list(urls)
    shards = [shard for url in listed for shard in braces(os.fspath(url))]
    for shard in shards:
        if shard.startswith("pipe:") and not allow_pipes:
            raise DataError(f"{shard!r} would run a command; pass allow_pipes=True if you trust it")
    policy = bad or BadSamples()
    samples = (sample for shard in shards for sample in _stream(shard, policy))
    yield from _mixed(samples, shuffle_buffer, random.Random(seed))
    policy.check()


def _mixed(samples: Iterator[Sample], size: int, chance: random.Random) -> Iterator[Sample]:
    held: list[Sample] = []
    for sample in samples:
        if len(held) < size:
            held.append(sample)
        elif size:
            place = chance.randrange(size)
            held[place], sample = sample, held[place]
            yield sample
        else:
            yield sample
    chance.shuffle(held)
    yield from held


def _stream(shard: str, bad: BadSamples) -> Iterator[Sample]:
    try:
        stream = _open_stream(shard)
    except SampleError as error:
        return bad.record(error)
    try:
        for found in _found(shard, stream):
            bad.seen()
            if isinstance(found, SampleError):
                bad.record(found)
            else:
                yield found
    finally:
        with contextlib.suppress(OSError):  # a command that was cut short may complain
            _close(stream)


def _found(shard: str, stream: Any) -> Iterator[Sample | SampleError]:
    """Samples and faults of one shard; a sample is held until two more have begun, and given up
    when its members go on after the next one's."""
    read, grouping, stop = _Forward(shard, stream), Grouping(), None
    pending: dict[str, dict[str, bytes]] = {}
    told: set[str] = set()

    def take(key: str) -> Iterator[Sample | SampleError]:
        parts = pending.pop(key, {})
        grouping.finish(key)
        if key in grouping.faults:
            if key not in told:
                told.add(key)
                yield grouping.faults[key].error(shard)
            return
        try:
            yield Sample.from_members(key, parts, shard)
        except SampleError as error:
            yield error

    try:
        for member in walk(read):
            kind = grouping.add(member)
            if not kind or member.kind or member.size > MAX_MEMBER:
                continue
            data = read(member.offset, member.size)
            if len(data) < member.size:
                raise TarFault("truncated", "ends inside a member", member.name)
            pending.setdefault(grouping.key or "", {})[kind] = data
            if len(pending) > 2:
                yield from take(next(iter(pending)))
    except TarFault as fault:
        stop = grouping.end(fault)
    for key in [key for key in grouping.groups if key in pending or key in grouping.faults]:
        yield from take(key)
    if stop:
        yield stop.error(shard)


class _Forward:
    """`read(offset, size)` of a stream, for a walk that never goes back."""

    def __init__(self, shard: str, stream: Any) -> None:
        self._stream, self._place, self._ended = stream, 0, False
        self._source = gzip.GzipFile(fileobj=stream) if shard.endswith(ZIPPED) else stream

    def __call__(self, offset: int, size: int) -> bytes:
        while self._place < offset:
            step = min(offset - self._place, 2**20)
            if len(self._take(step)) < step:
                return b""
        return self._take(size)

    def _finish(self) -> None:
        """At the end: raise TarFault when what filled the stream says that it failed."""
        try:
            _close(self._stream)
        except OSError as error:
            raise TarFault("unreadable", f"cannot be read ({error})") from error

    def _take(self, size: int) -> bytes:
        if self._ended:
            return b""
        try:
            data = self._source.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise TarFault("unreadable", f"cannot be read ({error})") from error
        self._place += len(data)
        if len(data) < size:
            self._ended = True
            self._finish()
        return data


def _open_stream(shard: str) -> Any:
    scheme = shard.partition("://")[0] if "://" in shard else ""
    try:
        if shard == "-":
            return sys.stdin.buffer
        if scheme in ("", "file", "local") and not shard.startswith("pipe:"):
            return open(shard.removeprefix(f"{scheme}://"), "rb")
        if scheme not in WEBDATASET_SCHEMES and not shard.startswith("pipe:"):
            store, path = file_system(shard)
            return store.open(path, "rb")
        os.environ["WDS_SECURE"] = "1"  # read by webdataset when it is imported
        from webdataset.gopen import Pipe, gopen

        if shard.startswith("pipe:"):  # allowed by the caller; `gopen` would need WDS_SECURE off
            return Pipe(shard[5:], mode="rb", shell=True, bufsize=2**16, ignore_status=SIGPIPE)
        return gopen(shard, bufsize=2**16)
    except OSError as error:
        cause = "missing-shard" if isinstance(error, FileNotFoundError) else "unreadable"
        raise SampleError(f"{shard} cannot be opened: {error}", shard, cause=cause) from error


def _close(stream: Any) -> None:
    if stream is not sys.stdin.buffer:
        stream.close()
