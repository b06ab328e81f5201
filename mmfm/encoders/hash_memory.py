"""What hash the weights of a file have, so that a large model is not read whole at every start.

A small JSON file for each weights file in the cache folder. It holds as long as the weights are the
same by size, times and inode. No program can set the time of the last change (ctime), so a file
that was changed and given its old date is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from mmfm.durable import replacing
from mmfm.encoders.cache_folder import cache_folder

# why: a file changed again within a tick of the clock has the same times, so one this young is not
# remembered (git calls such entries racily clean)
_YOUNG_NS = 2_000_000_000


def recall(path: Path, stat: os.stat_result, config: str) -> str | None:
    """The hash that a model had when its weights file looked like this and its config was this."""
    try:
        told = json.loads(_place(path).read_text(encoding="ascii"))
        return told["hash"] if told["of"] == _identity(stat, config) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(path: Path, stat: os.stat_result, config: str, value: str) -> None:
    """Keep a hash that was computed from the file that looks like this; nothing if it cannot be."""
    if max(stat.st_mtime_ns, stat.st_ctime_ns) > time.time_ns() - _YOUNG_NS:
        return
    place = _place(path)
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as file:
            told = {"path": str(path), "of": _identity(stat, config), "hash": value}
            file.write(json.dumps(told).encode("ascii"))


def _identity(stat: os.stat_result, config: str) -> list[int | str]:
    told = hashlib.sha256(config.encode()).hexdigest()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev, told]


def _place(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
    return cache_folder("hashes") / f"{name}.json"
