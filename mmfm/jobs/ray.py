"""`embed_shard` on many machines: Ray hands out the shards, and hands them out again when one dies.

Every node must reach the shards, the store and the model under the same names: a shared file
system, or URLs for the shards. Nothing is sent through Ray but shard numbers and short reports.
A task that is repeated, on whatever node, finds what its forerunner left and does only the rest.
"""

from __future__ import annotations

import contextlib
import os
import socket
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

from mmfm.data.bad import BadSamples
from mmfm.data.dataset import ShardDataset
from mmfm.data.store import EmbeddingStore, Identity
from mmfm.errors import InputError, ModelError
from mmfm.jobs.embed import account, begin, open_store, opened, progress_bar
from mmfm.jobs.shard import Report, check_kinds, embed_shard
from mmfm.loading import load

_MAX_RETRIES = 10  # of one shard, when its worker or node dies; a shard that kills them all ends it


@dataclass(frozen=True)
class _Work:
    """What every task of a run shares."""

    model: str
    device: str | None
    store: str
    kinds: tuple[str, ...]
    batch_size: int
    num_workers: int


def ray_embed_shards(
    model: str | os.PathLike[str],
    source: Any,
    store: str | os.PathLike[str],
    *,
    kinds: Sequence[str] = ("pooled",),
    batch_size: int = 64,
    num_workers: int = 0,
    on_bad: BadSamples | None = None,
    check: bool = False,
    progress: bool = False,
    address: str | None = None,
    device: str | None = None,
    num_cpus: float = 1,
    num_gpus: float | None = None,
) -> Report:
    """`embed_shards` with one Ray task for each shard; same store, same report, same errors.

    model: a name or bundle folder for `mmfm.load`; every worker process loads it once. address:
    of a running cluster; default: `RAY_ADDRESS`, or a Ray of its own on this machine. A Ray that
    is initialised already is used as it is. num_cpus, num_gpus: that a task reserves; num_gpus is
    1 by default where the cluster has GPUs.

    Raises InputError when Ray is not installed, ModelError when nodes load different weights, and
    what `embed_shards` raises.
    """
    ray = _import_ray()
    dataset = opened(source, on_bad)
    folder = os.path.abspath(store)
    name = os.path.abspath(model) if os.path.isdir(model) else str(model)
    work = _Work(name, device, folder, check_kinds(kinds), batch_size, num_workers)
    with _connected(ray, address), progress_bar(len(dataset), progress) as bar:
        if num_gpus is None:
            num_gpus = 1 if ray.cluster_resources().get("GPU") else 0
        # why max_calls: Ray would end the process of a GPU task, and the model with it
        options = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_retries": _MAX_RETRIES,
                   "max_calls": 0}  # fmt: skip
        identity = _result(ray, ray.remote(**options)(_identify).remote(work))
        total = begin(EmbeddingStore(folder, identity, name), work.kinds, check)
        embed = ray.remote(**options)(_embed)
        shared = ray.put(dataset)
        shards = iter(range(len(dataset.shards)))
        running: list[Any] = []
        try:
            while True:
                # two for each CPU: nobody waits for work, nor do 50,000 tasks wait at Ray
                room = 2 * max(1, int(ray.cluster_resources().get("CPU", 1) / num_cpus))
                for shard in islice(shards, max(0, room - len(running))):
                    running.append(embed.remote(work, identity, shared, shard))
                if not running:
                    return total
                [ready], running = ray.wait(running)
                done, said = _result(ray, ready)
                for words in said:
                    warnings.warn(words, UserWarning, stacklevel=2)
                account(done, on_bad)
                total.add(done)
                bar.update(done.samples)
        finally:
            for task in running:
                ray.cancel(task, force=True)


@lru_cache(maxsize=1)
def _model(name: str, device: str | None) -> Any:
    """The model of this worker process, loaded once."""
    return load(name, device=device)


@lru_cache(maxsize=1)
def _equipped(work: _Work) -> tuple[Any, EmbeddingStore]:
    model = _model(work.model, work.device)
    return model, open_store(work.store, model)


def _identify(work: _Work) -> Identity:
    return _equipped(work)[1].identity


def _embed(
    work: _Work, identity: Identity, dataset: ShardDataset, shard: int
) -> tuple[Report, list[str]]:
    """One shard, and the warnings that came up."""
    model, store = _equipped(work)
    if store.identity != identity:
        raise ModelError(
            f"the nodes load different models as {work.model!r}; install the same mmfm and copy "
            "the same bundle everywhere"
        )
    with warnings.catch_warnings(record=True) as caught:
        report = embed_shard(model, dataset, shard, store, kinds=work.kinds,
                             batch_size=work.batch_size, num_workers=work.num_workers)  # fmt: skip
    return report, [str(one.message) for one in caught if one.category is UserWarning]


def _result(ray: Any, task: Any) -> Any:
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None  # one sentence, without the traceback of another machine
        raise


def _import_ray() -> Any:
    # why: a Ray that is started here is nobody's business
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "embedding on many machines needs Ray; pip install 'mmfm[ray]', or leave --ray out"
        ) from error
    return ray


@contextlib.contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _expect_answer(address)
    alone = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, **alone)
    except ConnectionError as error:
        raise _no_cluster(address) from error
    try:
        yield
    finally:
        ray.shutdown()


def _expect_answer(address: str) -> None:
    """Ray itself tries for many minutes where nobody listens."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise _no_cluster(address) from error


def _no_cluster(address: str) -> InputError:
    return InputError(
        f"there is no Ray cluster at {address!r}; start one with `ray start --head`, or leave the "
        "address out"
    )
