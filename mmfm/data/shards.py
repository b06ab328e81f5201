"""Image-text shards: tar files in which a sample is a run of members with one key.

`000000007.json 000000007.png 000000007.txt` make one sample (the webdataset and img2dataset
layout). Writing goes through webdataset; reading is our own, because webdataset 1.0.2 splits
interleaved samples in two without a word and runs code that a shard may carry.
"""

import itertools
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmfm.data.sample import Sample
from mmfm.errors import DataError, OutputError

IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "webp")
EXTENSIONS = (*IMAGE_EXTENSIONS, "txt", "json")
TAR_END = bytes(1024)  # a complete tar ends in two blocks of zeros


def write_shards(samples: Iterable[Sample], folder: str | Path, max_count: int = 2000) -> int:
    """Write samples as `folder/00000.tar, 00001.tar, ...` and return how many were written.

    The first caption goes to `.txt`, all of them to `captions` in `.json` beside the meta. Equal
    samples give equal bytes. Shards appear in `folder` only when all are written, and replace the
    shards that were there. Raises DataError for a sample that cannot be stored, OutputError when
    `folder` holds anything but shards.
    """
    folder = Path(folder)
    if folder.exists() and any(path.suffix != ".tar" for path in folder.iterdir()):
        raise OutputError(f"{folder} holds files that are not shards; choose an empty folder")
    unfinished = folder.with_name(f".{folder.name}.unfinished-{os.getpid()}")
    unfinished.mkdir(parents=True)
    try:
        count = _write(samples, unfinished, max_count)
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return count


def _write(samples: Iterable[Sample], folder: Path, max_count: int) -> int:
    os.environ["WDS_SECURE"] = "1"  # read by webdataset when it is imported
    from webdataset.writer import TarWriter

    seen: set[str] = set()
    samples = iter(samples)
    part = list(itertools.islice(samples, max_count))
    shard = 0
    while part or not shard:  # an empty split still has one shard, without samples
        with (
            open(folder / f"{shard:05d}.tar", "wb") as stream,
            TarWriter(stream, user="mmfm", group="mmfm", mtime=0, encoder=False) as writer,
        ):
            for sample in part:
                writer.write(_members(sample, seen))
        part = list(itertools.islice(samples, max_count))
        shard += 1
    return len(seen)


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
    folder holds no shard.
    """
    folder = Path(folder)
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        raise DataError(f"no .tar shards in {folder}; build them first or give another folder")
    for shard in shards:
        yield from read_shard(shard)


def read_shard(shard: str | Path) -> Iterator[Sample]:
    """Samples of one tar file, in its order; see `read_shards` for the checks and errors."""
    shard = Path(shard)
    with open(shard, "rb") as stream:
        groups = _index(shard, stream)
        for key, members in groups.items():
            parts = {}
            for extension, member in members.items():
                stream.seek(member.offset_data)
                parts[extension] = stream.read(member.size)
            yield _sample(shard, key, parts)


def _index(shard: Path, stream) -> dict[str, dict[str, tarfile.TarInfo]]:
    """Members by key and extension, in order, after all checks that need no data."""
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    key = None
    try:
        for member in tarfile.TarFile(fileobj=stream):
            name, extension = _split(shard, member)
            if name != key and name in groups:
                raise DataError(
                    f"{shard}: the members of sample {name!r} are interleaved with those of"
                    f" {key!r}; write the shard again with the members of a sample side by side"
                )
            key = name
            group = groups.setdefault(key, {})
            if extension in group:
                raise DataError(f"{shard}: sample {key!r} has two .{extension} members; keep one")
            group[extension] = member
    except tarfile.TarError as error:
        where = f"after sample {key!r}" if key else "at its start"
        raise DataError(
            f"{shard} is damaged or cut off {where} ({error}); fetch it again"
        ) from None
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - len(TAR_END)))
    if stream.read() != TAR_END or size % tarfile.BLOCKSIZE:
        where = f"after sample {key!r}" if key else "at its start"
        raise DataError(f"{shard} is cut off {where}: it has no end mark; fetch it again")
    _expect_complete(shard, groups)
    return groups


def _split(shard: Path, member: tarfile.TarInfo) -> tuple[str, str]:
    base = member.name.rsplit("/", 1)[-1]
    name, _, extension = base.partition(".")
    if not member.isreg() or not name or extension.lower() not in EXTENSIONS:
        wanted = " ".join(f".{extension}" for extension in EXTENSIONS)
        raise DataError(f"{shard}: member {member.name!r} is not a file of these kinds: {wanted}")
    return member.name[: len(member.name) - len(base)] + name, extension.lower()


def _expect_complete(shard: Path, groups: dict[str, dict[str, tarfile.TarInfo]]) -> None:
    texts = {kind for group in groups.values() for kind in group if kind in ("txt", "json")}
    for key, group in groups.items():
        num_images = sum(kind in IMAGE_EXTENSIONS for kind in group)
        if num_images != 1:
            raise DataError(f"{shard}: sample {key!r} has {num_images} pictures; it must have one")
        for kind in sorted(texts - set(group)):
            raise DataError(
                f"{shard}: sample {key!r} is incomplete, it has no .{kind} as others here do"
            )


def _sample(shard: Path, key: str, parts: dict[str, bytes]) -> Sample:
    try:
        meta = json.loads(parts["json"]) if "json" in parts else {}
        text = parts["txt"].decode().strip() if "txt" in parts else ""
    except ValueError as error:
        raise DataError(f"{shard}: the text of sample {key!r} cannot be read: {error}") from None
    if not isinstance(meta, dict):
        raise DataError(f"{shard}: the .json of sample {key!r} is not an object")
    captions = meta.get("captions", [text] if text else [])
    if not isinstance(captions, list) or not all(isinstance(line, str) for line in captions):
        raise DataError(f"{shard}: `captions` of sample {key!r} is not a list of texts")
    image = next(parts[kind] for kind in IMAGE_EXTENSIONS if kind in parts)
    return Sample(key=key, image=image, captions=tuple(captions), meta=meta)
