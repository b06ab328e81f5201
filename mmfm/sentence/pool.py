"""Several processes that encode at once: one a GPU, or a few on the cores of one machine."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import multiprocessing

from mmfm.errors import InputError

Pool = dict[str, Any]  # "input", "output", "processes", as sentence-transformers has it
_MOST_CHUNK = 5000
_POLL = 1.0  # seconds between looks at whether the workers still live


def start_pool(model: Any, devices: list[str] | None = None) -> Pool:
    """Start one process a device, each with the model (weights on the CPU are shared).

    devices: such as ["cuda:0", "cuda:1"] or ["cpu", "cpu"]; default all GPUs, or without one a CPU
    process for each four cores. The cores are divided among CPU processes.
    """
    if devices is None:
        gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        devices = gpus or ["cpu"] * max(1, (os.cpu_count() or 1) // 4)
    if not devices:
        raise InputError("a pool needs at least one device, got an empty list")
    context = multiprocessing.get_context("spawn")
    todo, done = context.Queue(), context.Queue()
    threads = max(1, (os.cpu_count() or 1) // len(devices))
    processes = []
    for device in devices:
        process = context.Process(
            target=_work, args=(model, str(device), threads, todo, done), daemon=True
        )
        process.start()
        processes.append(process)
    return {"input": todo, "output": done, "processes": processes}


def stop_pool(pool: Pool) -> None:
    """End the processes of a pool."""
    for process in pool["processes"]:
        process.terminate()
    for process in pool["processes"]:
        process.join()
        process.close()
    for name in ("input", "output"):
        pool[name].cancel_join_thread()
        pool[name].close()


def encode_in(pool: Pool, inputs: list, options: dict[str, Any], chunk_size: int | None) -> Any:
    """(N, D) vectors of `inputs`, in their order, from the processes of a pool.

    Raises what a worker raised, RuntimeError when one died.
    """
    if chunk_size is None:
        parts = 10 * len(pool["processes"])
        chunk_size = max(1, min(-(-len(inputs) // parts), _MOST_CHUNK))
    if chunk_size < 1:
        raise InputError(f"chunk_size is {chunk_size}, wanted at least 1")
    starts = range(0, len(inputs), chunk_size)
    for start in starts:
        pool["input"].put((start, inputs[start : start + chunk_size], options))
    found: dict[int, Any] = {}
    while len(found) < len(starts):
        start, result = _next(pool)
        found[start] = result
    for start in starts:  # why not at once: what is still under way would meet the next call
        if isinstance(found[start], Exception):
            raise found[start]
    return np.concatenate([found[start] for start in starts])


def _next(pool: Pool) -> tuple[int, Any]:
    while True:
        try:
            return pool["output"].get(timeout=_POLL)
        except queue.Empty:
            dead = [p.pid for p in pool["processes"] if not p.is_alive()]
            if dead:
                raise RuntimeError(f"processes {dead} of the pool died; stop it") from None


def _work(model: Any, device: str, threads: int, todo: Any, done: Any) -> None:
    torch.set_num_threads(threads)
    encode: Callable | None = None
    while True:
        start, inputs, options = todo.get()
        try:
            encode = encode or model.to(device).vectors_of
            done.put((start, encode(inputs, **options)))
        except Exception as error:
            done.put((start, error))
