"""What becomes of samples that cannot be used: raise, skip, or quarantine; counted by cause."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from pathlib import Path

from mmfm.durable import replacing
from mmfm.errors import DataError, OutputError

ON_ERROR = ("raise", "skip", "quarantine")
MIN_SEEN = 100  # a fraction of fewer samples says little
REASONS = "reasons.jsonl"


class SampleError(DataError):
    """A sample, or a whole shard, that cannot be used.

    shard: path or URL. key: the sample's, or the last whole one before the fault; may be "".
    cause: one short stable word to count by, such as "truncated" or "not-an-image".
    """

    def __init__(self, message: str, shard: str = "", key: str = "", cause: str = "unreadable"):
        super().__init__(message)
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", cause):
            raise ValueError(f"cause {cause!r} is not a short word such as 'not-an-image'")
        self.shard, self.key, self.cause = str(shard), key, cause

    def __reduce__(self):  # exceptions pickle by their message alone; workers send these home
        return type(self), (str(self), self.shard, self.key, self.cause)


class BadSamples:
    """The policy for samples that cannot be used, and the account of those that came.

    on_error: "raise" stops at the first; "skip" leaves it out; "quarantine" also keeps its bytes
    and the reason under `folder`. Whatever the policy, no sample is lost without a count.
    max_fraction: DataError is raised when more than this share of the samples seen was bad.
    counts: how many were recorded, by cause. records: one dict each, in order.
    """

    def __init__(
        self,
        on_error: str = "raise",
        max_fraction: float = 0.01,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        if on_error not in ON_ERROR:
            raise DataError(f"on_error is {on_error!r}; wanted one of {', '.join(ON_ERROR)}")
        if not 0 <= max_fraction <= 1:
            raise DataError(f"max_fraction is {max_fraction}; wanted a share from 0 to 1")
        if (on_error == "quarantine") != (folder is not None):
            raise DataError("a folder goes with on_error='quarantine', and only with it")
        self.on_error = on_error
        self.max_fraction = max_fraction
        self.folder = None if folder is None else Path(folder)
        self.counts: Counter[str] = Counter()
        self.records: list[dict[str, str]] = []
        self.num_seen = 0
        self.num_lost = 0
        self._kept: set[str] | None = None

    def record(self, error: SampleError, data: bytes | None = None, samples: int = 1) -> None:
        """Count a bad sample, or raise `error` itself when the policy is "raise".

        data: the sample's bytes as found, for the quarantine. samples: about how many samples were
        lost, when the fault took more than one (a shard cut off). Raises DataError when the
        allowed share is passed, OutputError when the quarantine cannot be written.
        """
        if self.on_error == "raise":
            raise error
        entry = {"shard": error.shard, "key": error.key, "cause": error.cause}
        self.records.append({**entry, "message": str(error)})
        self.counts[error.cause] += 1
        self.num_lost += samples
        if self.folder is not None:
            self._keep(self.folder, self.records[-1], data)
        if self.num_seen >= MIN_SEEN:
            self.check()

    def seen(self, count: int = 1) -> None:
        """`count` more samples were looked at, good and bad alike."""
        self.num_seen += count
        if self.num_seen >= MIN_SEEN:
            self.check()

    def check(self) -> None:
        """Raise DataError when too large a share was bad, however few were seen: for the end."""
        total = max(self.num_seen, self.num_lost)
        if self.num_lost > self.max_fraction * total:
            causes = ", ".join(f"{cause} {count}" for cause, count in self.counts.most_common())
            raise DataError(
                f"{self.num_lost} of {total} samples cannot be used, more than the allowed"
                f" {self.max_fraction:.2%} ({causes}; the first: {self.records[0]['message']});"
                " mend the data or allow a larger max_fraction"
            )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the list as JSON lines: shard, key, cause, message. Replaces `path` at once."""
        target = Path(path)
        lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in self.records]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as file:
                file.write("".join(lines).encode(errors="backslashreplace"))
        except OSError as error:
            raise OutputError(f"cannot write {target}: {error.strerror}") from error

    def _keep(self, folder: Path, entry: dict[str, str], data: bytes | None) -> None:
        """Bytes under a name made of hashes: text from data never becomes a path."""
        identity = "\0".join((entry["shard"], entry["key"], entry["cause"]))
        name = hashlib.sha256(identity.encode(errors="replace")).hexdigest()[:32]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self._kept is None:
                self._kept = _names(folder / REASONS)
            if name in self._kept:
                return
            if data is not None:
                with replacing(folder / f"{name}.bin") as file:
                    file.write(data)
            line = {**entry, "file": f"{name}.bin" if data is not None else None, "name": name}
            with open(folder / REASONS, "ab") as stream:  # one write: appends do not mix
                stream.write(json.dumps(line).encode() + b"\n")
            self._kept.add(name)
        except OSError as error:
            raise OutputError(f"cannot write the quarantine {folder}: {error.strerror}") from error


def _names(path: Path) -> set[str]:
    """Names that a quarantine already lists; a line that a crash cut off is ended, not counted."""
    names: set[str] = set()
    text = path.read_bytes() if path.exists() else b""
    if text and not text.endswith(b"\n"):
        with open(path, "ab") as stream:
            stream.write(b"\n")
    for line in text.splitlines():
        try:
            names.add(json.loads(line)["name"])
        except (ValueError, TypeError, KeyError):
            continue
    return names
