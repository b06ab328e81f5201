"""What a filtering leaves beside its shards: where the samples came from, and what became of them.

`dropped.jsonl` has a line for every sample that went; `manifest.json` has the counts.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from mmfm.data.bad import SampleError
from mmfm.data.filters.caption import caption_mark, words
from mmfm.data.filters.filter import Drop
from mmfm.data.sample import Sample
from mmfm.data.tar.file import open_tar
from mmfm.durable import replacing
from mmfm.errors import OutputError

LICENCE_FIELDS = ("license", "licence", "rights", "usage_terms")
NO_LICENCE = "(not stated)"
STEP = 1 << 22  # bytes hashed at once


class DropList:
    """A JSON line for each drop, or only a count of them where there is no path."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file = open(path, "w", encoding="utf-8") if path else None  # noqa: SIM115

    def add(self, key: str, shard: str, name: str, drop: Drop, of: str | None = None) -> None:
        """name: of the filter. of: key of the sample that stays instead."""
        if self._file is None:
            return
        line = {"key": key, "shard": shard, "filter": name, "reason": drop.reason}
        if drop.value is not None:
            line["value"] = drop.value
        if of is not None:
            line["of"] = of
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def __enter__(self) -> DropList:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._file is None:
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()


class Census:
    """What kept samples are like: licences, captions, meta fields. In memory 8 bytes a caption."""

    def __init__(self) -> None:
        self.count = 0
        self.licences: Counter[str] = Counter()
        self.fields: Counter[str] = Counter()
        self._without = 0
        self._lengths: Counter[int] = Counter()
        self._marks = array("Q")

    def add(self, sample: Sample) -> None:
        self.count += 1
        self.licences[licence(sample.meta)] += 1
        self.fields.update(sample.meta.keys())
        for value in sample.meta.values():
            if isinstance(value, dict):
                self.fields.update(value.keys())
        self._without += not sample.captions
        for caption in sample.captions:
            self._lengths[len(words(caption))] += 1
            self._marks.append(caption_mark(caption))

    def captions(self) -> dict[str, Any]:
        """Counts and lengths, in words, of all captions of the samples."""
        lengths = np.array(sorted(self._lengths), np.int64)
        counts = np.array([self._lengths[length] for length in lengths.tolist()], np.int64)
        total = int(counts.sum())
        facts: dict[str, Any] = {
            "captions": total,
            "distinct": len(np.unique(np.frombuffer(self._marks, np.uint64))) if total else 0,
            "samples_without": self._without,
        }
        if total:
            place = np.searchsorted(np.cumsum(counts), [0.5 * total, 0.95 * total])
            facts["words"] = {
                "least": int(lengths[0]),
                "median": int(lengths[place[0]]),
                "mean": round(float((lengths * counts).sum() / total), 2),
                "95%": int(lengths[place[1]]),
                "most": int(lengths[-1]),
            }
        return facts


def licence(meta: dict[str, Any]) -> str:
    """What a sample's meta says of its licence."""
    for name, value in meta.items():
        if name.lower() in LICENCE_FIELDS and isinstance(value, str) and value.strip():
            return value.strip()
    return NO_LICENCE


def describe_shards(shards: list[str], counts: list[int]) -> list[dict[str, Any]]:
    """Name, sha256 and samples of each shard, which is read once from end to end.

    The hash of a shard that cannot be read is None; its samples are in the list of drops.
    """
    described = []
    for shard, count in zip(shards, counts, strict=True):
        try:
            digest: str | None = shard_sha256(shard)
        except SampleError:
            digest = None
        described.append({"shard": shard, "sha256": digest, "samples": count})
    return described


def shard_sha256(shard: str) -> str:
    """Hex sha256 of the whole file, at a path or a URL. Raises SampleError."""
    tar, digest = open_tar(shard), hashlib.sha256()
    for offset in range(0, tar.size, STEP):
        digest.update(tar.read(offset, min(STEP, tar.size - offset)))
    return digest.hexdigest()


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """The manifest as JSON, on the disk when this returns. Raises OutputError."""
    try:
        with replacing(path) as file:
            file.write(json.dumps(manifest, indent=2, ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
