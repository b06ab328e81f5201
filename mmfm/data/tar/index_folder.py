"""Where the index of a shard is kept, and making it when it is missing or out of date."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from mmfm.data.remote import is_remote
from mmfm.data.tar import index as tar_index
from mmfm.data.tar.file import Tar, forward
from mmfm.data.tar.index import IndexHeader, TarIndex
from mmfm.errors import DataError

SUFFIX = ".index"  # 00000.tar.index


def index_header(shard: str, tar: Tar, folder: str | None) -> IndexHeader:
    """Header of the index that fits the tar as it is now; scans the tar when there is none.

    folder: None looks beside the shard and then in the user's cache. Any number of processes may
    do this at once: each puts a whole file in place, and all these files are equal. Raises
    DataError when the index can be kept nowhere.
    """
    for path in _places(shard, folder):
        header = tar_index.peek(path)
        if header and (header.size, header.stamp) == (tar.size, tar.stamp):
            return header
    return _build(shard, tar, folder)[0]


def open_index(
    shard: str, tar: Tar, folder: str | None, verified: str = ""
) -> tuple[IndexHeader, TarIndex]:
    """The same with its arrays; an index file that is damaged is made again.

    verified: digest of an index whose file was found whole before, so that it need not be hashed.
    """
    for path in _places(shard, folder):
        header = tar_index.peek(path)
        if header and (header.size, header.stamp) == (tar.size, tar.stamp):
            found = tar_index.load(path, verify=header.digest != verified)
            if found and found[0] == header:
                return found
    return _build(shard, tar, folder)


def _build(shard: str, tar: Tar, folder: str | None) -> tuple[IndexHeader, TarIndex]:
    index = tar_index.scan(forward(tar), tar.size)
    for path in _places(shard, folder):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return tar_index.save(index, path, tar.size, tar.stamp), index
        except OSError as error:
            said = str(error)
    raise DataError(
        f"the index of {shard} cannot be kept in {path.parent} ({said});"
        " give an index_folder that can be written to"
    )


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/mmfm/index`, by default below ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "mmfm", "index")


def _places(shard: str, folder: str | None) -> list[Path]:
    if folder:
        return [Path(folder, _name(shard))]
    cached = cache_folder() / _name(shard)
    return [cached] if is_remote(shard) else [Path(shard + SUFFIX), cached]


def _name(shard: str) -> str:
    """File name for an index that lies away from its shard."""
    where = shard if is_remote(shard) else os.path.abspath(shard)
    digest = hashlib.sha256(where.encode(errors="surrogateescape")).hexdigest()[:16]
    base = shard.rstrip("/").rsplit("/", 1)[-1].split("?")[0]
    return f"{base[:100]}-{digest}{SUFFIX}"
