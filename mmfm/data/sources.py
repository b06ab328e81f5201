"""Which shards a source names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from mmfm.data.remote import is_remote, list_remote
from mmfm.errors import DataError


def expand(source: str | os.PathLike | Iterable[str | os.PathLike]) -> list[str]:
    """Paths and URLs of shards: of a folder or pattern sorted by name, of a list in its order.

    source: a folder of `.tar`, one `.tar`, a pattern with `*`, `?`, `[]` or braces `{00..07}`, an
    fsspec URL of one of these, or a list. Raises DataError when any of them names no shard.
    """
    if isinstance(source, str | os.PathLike):
        source = [source]
    shards = [shard for one in source for shard in _expand(os.fspath(one))]
    if not shards:
        raise DataError("an empty list of shards; give at least one")
    return shards


def _expand(source: str) -> list[str]:
    if source.startswith("pipe:") or source == "-":
        raise DataError(f"{source!r} cannot be indexed; use stream_shards for it")
    if is_remote(source):
        return [shard for one in braces(source) for shard in _remote(one)]
    path = source.removeprefix("file://").removeprefix("local://")
    if os.path.exists(path):  # as it stands, even when its name holds a brace or a star
        return _local(path)
    return [shard for one in braces(path) for shard in _local(one)]


def braces(source: str) -> list[str]:
    """What a pattern with `{00..07}` or `{a,b}` stands for; the source itself without one."""
    if "{" not in source:
        return [source]
    from braceexpand import braceexpand

    try:
        return list(braceexpand(source))
    except ValueError as error:  # its UnbalancedBracesError
        raise DataError(f"{source}: {error}") from None


def _remote(url: str) -> list[str]:
    plain, _, query = url.partition("?")
    if not any(sign in plain for sign in "*[") and (
        _is_tar(plain) or (query and url.startswith("http"))  # a query, not a pattern
    ):
        return [url]
    found = list_remote(url)
    if not found:
        raise DataError(f"no .tar shards at {url}; build them first or give another URL")
    return found


def _local(path: str) -> list[str]:
    if os.path.isdir(path):
        found = sorted(str(shard) for shard in Path(path).glob("*.tar"))
        if not found:
            raise DataError(f"no .tar shards in {path}; build them first or give another folder")
        return found
    if not os.path.exists(path) and any(sign in path for sign in "*?["):
        found = sorted(shard for shard in glob.glob(path) if _is_tar(shard))
        if not found:
            raise DataError(f"no .tar file fits the pattern {path}")
        return found
    _is_tar(path)
    return [path]


def _is_tar(name: str) -> bool:
    if name.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        raise DataError(f"{name} is compressed, which allows no random access: unpack it to .tar")
    return name.endswith(".tar")
