"""Shards in remote stores, through fsspec: ranges of bytes, asked for again when that fails."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from mmfm.data.bad import SampleError
from mmfm.errors import DataError

MAX_TRIES = 6  # the waits before the 2nd to 6th try add up to about 15 s
FIRST_WAIT = 0.5  # seconds; doubled after every failure, plus up to as much again by chance
CHANCE = random.SystemRandom()  # draws nothing from the generators that a run may have seeded
READ_AHEAD = 2**22  # bytes asked for at once while a shard is indexed
PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
STAMPS = ("ETag", "etag", "md5Hash", "md5", "crc32c", "Last-Modified", "LastModified")
TIMES = ("last_modified", "updated", "mtime", "created")

Result = TypeVar("Result")


class TransientError(Exception):
    """An answer that may be right when asked for again."""


class RemoteTar:
    """A tar behind a URL. size: bytes. stamp: changes when the object is replaced."""

    def __init__(self, url: str) -> None:
        """Asks the store for size and stamp. Raises SampleError "missing-shard" or "unreadable"."""
        self.url = url
        self._store, self._path = file_system(url)
        info = self._retry(lambda: self._store.info(self._path))
        if info.get("size") is None:
            raise SampleError(
                f"{url}: the store does not tell the size; use stream_shards for it", url,
                cause="unreadable",
            )  # fmt: skip
        self.size = int(info["size"])
        self.stamp = next((str(info[name]) for name in (*STAMPS, *TIMES) if info.get(name)), "")

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`, fewer only at the end. Raises SampleError "unreadable"."""
        end = min(offset + size, self.size)
        if end <= offset:
            return b""

        def ask() -> bytes:
            data = self._store.cat_file(self._path, start=offset, end=end)
            if len(data) > end - offset:
                raise SampleError(
                    f"{self.url}: the store answers no ranges of bytes; use stream_shards for it",
                    self.url, cause="unreadable",
                )  # fmt: skip
            if len(data) < end - offset:
                raise TransientError(f"{len(data)} bytes came instead of {end - offset}")
            return data

        return self._retry(ask)

    def _retry(self, ask: Callable[[], Result]) -> Result:
        return retry(ask, self.url)


class ReadAhead:
    """`read(offset, size)` of a tar in large steps, for a walk that goes forward."""

    def __init__(self, read: Callable[[int, int], bytes], step: int = READ_AHEAD) -> None:
        self._read, self._step = read, step
        self._start, self._data = 0, b""

    def __call__(self, offset: int, size: int) -> bytes:
        place = offset - self._start
        if place < 0 or place + size > len(self._data):
            self._start, self._data = offset, self._read(offset, max(size, self._step))
            place = 0
        return self._data[place : place + size]


def is_remote(source: str) -> bool:
    """Whether a source names a store (`s3://...`) rather than a path."""
    return "://" in source and not source.startswith(("file://", "local://"))


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL and the path inside it. Raises DataError."""
    try:
        import fsspec
    except ImportError:
        raise DataError(
            f"{url} is in a remote store; reading it needs fsspec: pip install 'mmfm[data]'"
        ) from None
    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DataError(f"{url} cannot be opened: {error}") from None


def list_remote(pattern: str) -> list[str]:
    """URLs of the `.tar` objects that a folder's URL, or one with `*`, `?`, `[]`, names, sorted."""
    store, path = file_system(pattern)
    if not any(sign in path for sign in "*?["):
        path = path.rstrip("/") + "/*.tar"
    found = retry(lambda: store.glob(path), pattern)
    return sorted(store.unstrip_protocol(name) for name in found)


def retry(ask: Callable[[], Result], url: str) -> Result:
    """The answer of `ask`, asked for again after failures that may pass, up to MAX_TRIES times.

    Raises SampleError: "missing-shard" at once when the object is not there or not allowed,
    "unreadable" otherwise.
    """
    for number in range(1, MAX_TRIES + 1):
        try:
            return ask()
        except SampleError:
            raise
        except Exception as caught:
            error = _origin(caught)
            if isinstance(error, PERMANENT) or _status(error) in (401, 403, 404, 410):
                said = str(error) or type(error).__name__
                raise SampleError(
                    f"{url} is missing or not allowed ({said}); check the URL and the credentials",
                    url, cause="missing-shard",
                ) from caught  # fmt: skip
            if not _may_pass(error) or number == MAX_TRIES:
                said = f"{type(error).__name__}: {error}".rstrip(": ")
                raise SampleError(
                    f"{url} could not be read, tried {number} times ({said}); try again later",
                    url, cause="unreadable",
                ) from caught  # fmt: skip
            time.sleep(FIRST_WAIT * 2 ** (number - 1) * (1 + CHANCE.random()))
    raise AssertionError("unreachable")


def _origin(error: Exception) -> Exception:
    """fsspec calls everything "not found" that goes wrong while it asks a web server for a size."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        return cause if _may_pass(cause) else error
    return error


def _status(error: Exception) -> int | None:
    """HTTP status that an exception of aiohttp, botocore, gcsfs or requests carries."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for holder in (error, response):
        for name in ("status", "status_code", "code"):
            value = getattr(holder, name, None)
            if isinstance(value, int):
                return value
    return None


def _may_pass(error: Exception) -> bool:
    status = _status(error)
    if status is not None:
        return status in (408, 425, 429) or status >= 500
    if isinstance(error, (OSError, EOFError, TransientError, TimeoutError)):
        return True
    # aiohttp and botocore have their own families for a broken connection
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"ClientError", "HTTPClientError", "BotoCoreError", "TransportError"})
