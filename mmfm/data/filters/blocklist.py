"""Samples on a list of what must not be used, by the hash of the picture or by its address."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mmfm.data.filters.filter import Drop, SampleFilter
from mmfm.data.sample import Sample
from mmfm.errors import DataError

URL_COLUMNS = ("url", "image_url", "source_url")
HASH_COLUMNS = ("sha256",)  # img2dataset: of the file as it was downloaded, before resizing
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_HOST = re.compile(r"[^\s/:@]+\.[^\s/:@]+|localhost")


class HashBlocklist(SampleFilter):
    """Drops pictures whose sha256 is listed: of the encoded bytes in the shard, or of the file
    that they were made of, where the meta field `sha256` tells it."""

    name = "blocked-hash"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """path: a text file, one sha256 in hex a line; # begins a comment. Raises DataError."""
        self.path, self.hashes = Path(path), set()
        for number, line in entries(self.path):
            if not _SHA256.fullmatch(line):
                raise DataError(
                    f"{path}, line {number}: {line[:80]!r} is no sha256; wanted 64 hex digits"
                )
            self.hashes.add(bytes.fromhex(line))

    def settings(self) -> dict[str, Any]:
        return list_facts(self.path, len(self.hashes))

    def judge(self, sample: Sample) -> Drop | None:
        digest = hashlib.sha256(sample.image)
        if digest.digest() in self.hashes:
            return Drop("listed-bytes", digest.hexdigest())
        for column in HASH_COLUMNS:
            told = sample.meta.get(column)
            if not isinstance(told, str) or not _SHA256.fullmatch(told):
                continue
            if bytes.fromhex(told) in self.hashes:
                return Drop("listed-original", told.lower())
        return None


class UrlBlocklist(SampleFilter):
    """Drops samples whose meta names a listed address.

    An entry is a domain (`example.com`, which blocks its sub-domains too) or an address with its
    path (`https://example.com/a.jpg`); schemes, upper case of the host, `www.`, ports and what
    follows `#` do not matter.
    """

    name = "blocked-url"

    def __init__(self, path: str | os.PathLike[str], columns: Iterable[str] = URL_COLUMNS) -> None:
        """path: a text file, one entry a line; # begins a comment. columns: meta fields that hold
        addresses. Raises DataError."""
        self.path, self.columns = Path(path), tuple(columns)
        self.hosts: set[str] = set()
        self.addresses: set[str] = set()
        for number, line in entries(self.path):
            host, rest = _address(line)
            if not _HOST.fullmatch(host):
                raise DataError(
                    f"{path}, line {number}: {line[:80]!r} is no domain and no URL;"
                    " wanted example.com or https://example.com/picture.jpg"
                )
            if rest:
                self.addresses.add(host + rest)
            else:
                self.hosts.add(host)

    def settings(self) -> dict[str, Any]:
        count = len(self.hosts) + len(self.addresses)
        return {**list_facts(self.path, count), "columns": list(self.columns)}

    def judge(self, sample: Sample) -> Drop | None:
        for column in self.columns:
            url = sample.meta.get(column)
            if not isinstance(url, str) or not url.strip():
                continue
            host, rest = _address(url.strip())
            if host + rest in self.addresses:
                return Drop("listed-url", url)
            labels = host.split(".")
            if any(".".join(labels[first:]) in self.hosts for first in range(len(labels))):
                return Drop("listed-domain", url)
        return None

    def warning(self, fields: dict[str, int], kept: int) -> str | None:
        without = kept - max((fields.get(column, 0) for column in self.columns), default=0)
        if kept and without:
            names = ", ".join(self.columns)
            return (
                f"{without} of {kept} kept samples have no address in {names}:"
                " the list of URLs says nothing of them"
            )
        return None


def entries(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, entry) of a list; blank lines and comments are passed over.

    A # begins a comment at the start of a line or after a space. Raises DataError when the file
    cannot be read or holds no entry: an empty list would pass everything in silence.
    """
    found = False
    try:
        with open(path, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                entry = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
                if entry:
                    found = True
                    yield number, entry
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list {path} cannot be read: {error}") from None
    if not found:
        raise DataError(f"the list {path} holds no entry; give one a line, or leave the list out")


def list_facts(path: Path, count: int) -> dict[str, Any]:
    """What the manifest says of a list: its name, its own hash, its length."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"list": path.name, "list_sha256": digest, "entries": count}


def _address(text: str) -> tuple[str, str]:
    """(host, path with query) of a URL or of one without its scheme; ("", ...) when damaged."""
    try:
        parts = urlsplit(text if "://" in text else f"//{text.removeprefix('//')}")
        host = (parts.hostname or "").removeprefix("www.").rstrip(".")
    except ValueError:  # brackets that are no IPv6 address
        return "", text
    rest = parts.path.rstrip("/") + (f"?{parts.query}" if parts.query else "")
    return host, rest
