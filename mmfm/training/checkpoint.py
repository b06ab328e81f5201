"""Checkpoints that are whole or not there: written aside, synced, hashed, then renamed.

A checkpoint is a folder `step-N` of torch.distributed.checkpoint files, so that any number of
processes can read what any other number wrote, and a `manifest.json` with the hash of each file.
It holds named tensors and plain notes, nothing that can run code.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from mmfm.durable import replacing, sync
from mmfm.errors import ModelError, OutputError
from mmfm.training.distributed import World

KEEP = 2  # newest checkpoints kept
MANIFEST = "manifest.json"
_ALONE = World()
_BLOCK = 1 << 20  # bytes hashed at once


def save(
    folder: Path, step: int, tensors: Mapping[str, Tensor],
    notes: Mapping[str, Any] | None = None, world: World = _ALONE,
) -> Path:  # fmt: skip
    """Write `folder/step-N`; an interrupted call leaves only a `.tmp` folder that is ignored.

    Called by all processes together; sharded tensors are written by those that hold them, to one
    file system. notes: JSON types. Raises OutputError, in all of them, when it cannot be written;
    the checkpoints that were there stay as they were.
    """
    target = folder / f"step-{step:07d}"
    temporary = target.with_suffix(".tmp")

    def begin() -> None:
        _sweep(folder)
        temporary.mkdir(parents=True)

    def write() -> None:
        writer = dcp.FileSystemWriter(temporary, sync_files=True)
        with _quiet():
            dcp.save(dict(tensors), storage_writer=writer, no_dist=world.size == 1)

    def finish() -> None:
        digests = {k: v for part in hashed for k, v in part.items()}
        body = {"step": step, "files": digests, "notes": dict(notes or {})}
        with replacing(temporary / MANIFEST) as file:
            file.write(json.dumps({"body": body, "sha256": _digest(body)}).encode())
        sync(temporary)
        _put_aside(target)  # a damaged one, or the same step saved again
        os.replace(temporary, target)
        sync(folder)

    try:
        _together(world, begin, first_only=True)
        _together(world, write)
        mine = _share(sorted(temporary.iterdir()), world)
        hashed = world.gather({path.name: _hash(path) for path in mine})
        _together(world, finish, first_only=True)
    except OSError as error:
        if world.first:
            shutil.rmtree(temporary, ignore_errors=True)
        raise OutputError(
            f"the checkpoint of step {step} cannot be written to {folder} "
            f"({error.strerror or error}); make room there and start again: "
            f"{_goes_on(folder)}"
        ) from error
    if world.first:
        for old in _checkpoints(folder)[KEEP:]:
            _put_aside(old)
    return target


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose hashes are right."""

    path: Path
    step: int
    notes: dict[str, Any]
    world: World = _ALONE

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Name -> size of every tensor inside."""
        return {name: kind.size for name, kind in _kinds(self.path).items()}

    def load(self, into: Mapping[str, Tensor], spare: str = "") -> None:
        """Fill tensors in place, sharded or whole, by name. Called by all processes together.

        spare: beginning of names that the checkpoint may have besides. Raises ModelError when
        another name is missing on either side, or a size differs.
        """
        found = self.shapes
        for name in sorted(set(into) ^ set(found)):
            if spare and name not in into and name.startswith(spare):
                continue
            where = "the checkpoint" if name in into else "this model"
            raise ModelError(f"{self.path} is of another model: {where} has no {name!r}")
        for name, tensor in into.items():
            if tensor.shape != found[name]:
                raise ModelError(
                    f"{self.path} is of another model: {name!r} is {tuple(found[name])} there and "
                    f"{tuple(tensor.shape)} here"
                )
        with _quiet():
            dcp.load(dict(into), storage_reader=_Reader(self.path), no_dist=self.world.size == 1)

    def read(self, prefix: str = "") -> dict[str, Tensor]:
        """The tensors whose name begins with `prefix`, which is cut off; whole, by one process."""
        tensors = {
            name: torch.empty(kind.size, dtype=kind.properties.dtype)
            for name, kind in _kinds(self.path).items()
            if name.startswith(prefix)
        }
        with _quiet():
            dcp.load(tensors, storage_reader=_Reader(self.path), no_dist=True)
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def newest(folder: Path, world: World = _ALONE) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None; a damaged one is named and passed over."""
    for path in world.gather(_checkpoints(folder))[0]:  # all processes try the same
        try:
            return _open(path, world)
        except _Damaged as error:
            if world.first:
                warnings.warn(f"{path} is damaged ({error}); falling back to the one before",
                              stacklevel=2)  # fmt: skip
    return None


def export(source: Path, target: Path, part: str = "") -> Path:
    """Write the weights of a checkpoint, sharded or not, as one safetensors file of `module`.

    source: a run's folder (its newest checkpoint) or one `step-N`. part: "average" or "module";
    empty takes the average where there is one. Raises ModelError when there is no such
    checkpoint, OutputError when the file cannot be written.
    """
    from safetensors.torch import save_file

    try:
        found = _open(source) if source.name.startswith("step-") else newest(source)
    except _Damaged as error:
        raise ModelError(f"{source} is no whole checkpoint ({error})") from error
    if found is None:
        raise ModelError(f"{source} holds no whole checkpoint")
    parts = {name.partition(".")[0] for name in found.shapes} & {"module", "average"}
    part = part or ("average" if "average" in parts else "module")
    if part not in parts:
        raise ModelError(f"{found.path} has no part {part!r}; it has {', '.join(sorted(parts))}")
    tensors = found.read(f"{part}.")
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, {"step": str(found.step)})
        sync(temporary)
        os.replace(temporary, target)
        sync(target.parent)
    except Exception as error:  # safetensors has an error class of its own for a full disk
        temporary.unlink(missing_ok=True)
        raise OutputError(f"the weights cannot be written to {target} ({error})") from error
    return target


def _sweep(folder: Path) -> None:
    """Remove what interrupted saves left."""
    for left in folder.glob("step-*.tmp"):
        shutil.rmtree(left, ignore_errors=True)


class _Damaged(ValueError):
    """A checkpoint's hashes are not right, in words."""


def _open(path: Path, world: World = _ALONE) -> Checkpoint:
    """Read the manifest and compare all hashes, each process some of them."""
    wrong, body = None, {}
    try:
        body = _manifest(path)
        for name in _share(sorted(body["files"]), world):
            if _hash(path / name) != body["files"][name]:
                raise ValueError(f"the hash of {name} is wrong")
    except (OSError, ValueError, KeyError, TypeError) as error:
        wrong = f"{type(error).__name__}: {error}"
    for damage in filter(None, world.gather(wrong)):
        raise _Damaged(damage)
    return Checkpoint(path, body["step"], body["notes"], world)


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    steps = {path: path.name.removeprefix("step-") for path in folder.glob("step-*")}
    whole = [path for path, step in steps.items() if step.isdecimal()]
    return sorted(whole, key=lambda path: int(steps[path]), reverse=True)


def _manifest(path: Path) -> dict[str, Any]:
    said = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    body = said["body"]
    if said["sha256"] != _digest(body):
        raise ValueError(f"the hash of {MANIFEST} is wrong")
    return body


def _kinds(path: Path) -> dict[str, TensorStorageMetadata]:
    return _Reader(path).read_metadata().state_dict_metadata


class _Reader(dcp.FileSystemReader):
    """Torch's reader, but its pickled table of contents may only hold what such a table needs."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with open(Path(self.path) / ".metadata", "rb") as stream:
            metadata = _TableOnly(stream).load()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _TableOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module.startswith("pathlib") and name.endswith("Path"):
            return Path  # where it was first written, maybe on another system
        if name in _TABLE.get(module, ()):
            return super().find_class(module, name)
        raise ModelError(f"a checkpoint asks for {module}.{name}, which no table of tensors needs")


_TABLE = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
}  # fmt: skip


def _together(world: World, work: Callable[[], None], first_only: bool = False) -> None:
    """Do it on every process (or the first); when one fails, all raise its OSError."""
    failure = None
    try:
        if world.first or not first_only:
            work()
    except OSError as error:
        failure = error
    except (CheckpointException, RuntimeError) as error:
        failure = _cause(error)
    failures = [f for f in world.gather(failure and (failure.errno, failure.strerror)) if f]
    if failures:
        raise OSError(*failures[0])


def _cause(error: BaseException) -> OSError:
    """The OSError at the root of what torch raised, which wraps it or forgets it."""
    inner: list[BaseException | None] = [error.__cause__, error.__context__]
    if isinstance(error, CheckpointException):
        inner += [failure for failure, _ in error.failures.values()]
    for one in filter(None, inner):
        if isinstance(one, OSError):
            return one
        found = _cause(one)
        if found.errno:
            return found
    return OSError(0, str(error).strip().splitlines()[-1])


def _share(items: list, world: World) -> list:
    return items[world.rank :: world.size]


def _goes_on(folder: Path) -> str:
    left = _checkpoints(folder)
    return f"the run goes on from {left[0].name}" if left else "no checkpoint was there before"


def _put_aside(path: Path) -> None:
    """Remove a checkpoint so that no moment shows half of it."""
    if path.exists():
        aside = path.with_name(f"{path.name}.old.tmp")
        os.replace(path, aside)
        shutil.rmtree(aside, ignore_errors=True)


def _digest(body: Mapping[str, Any]) -> str:
    return sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _hash(path: Path) -> str:
    """Block by block: a checkpoint may be larger than memory."""
    digest = sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warning that one process is one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*single process.*")
        yield
