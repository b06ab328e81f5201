"""Many processes: who they are, what they tell each other, and how they share a module."""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class World:
    """This process among all that train together; alone by default.

    Every method must be called by all processes, in the same order.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that logs and names files."""
        return self.rank == 0

    @property
    def group(self) -> dist.ProcessGroup | None:
        """All of them, for losses over the whole batch; None when there is one."""
        return None if self.size == 1 else dist.group.WORLD

    def any(self, flag: bool) -> bool:
        """Whether any process says yes; all get the same answer."""
        return bool(self.largest(int(flag)))

    def largest(self, number: int) -> int:
        """The largest that any process says."""
        if self.size == 1:
            return number
        told = torch.tensor([number])
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return int(told.item())

    def mean(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Numbers averaged over the processes; what is no number stays this process's own."""
        kinds = (int, float, torch.Tensor)
        numbers = {k: float(v) for k, v in values.items() if isinstance(v, kinds)}
        if self.size == 1:
            return {**values, **numbers}
        total = torch.tensor(list(numbers.values()), dtype=torch.float64)
        dist.all_reduce(total)
        return {**values, **dict(zip(numbers, (total / self.size).tolist()))}

    def gather(self, value: Any) -> list[Any]:
        """What each process says, by rank. Small values only."""
        if self.size == 1:
            return [value]
        said: list[Any] = [None] * self.size
        dist.all_gather_object(said, value)
        return said


def join() -> World:
    """The processes that `torchrun` started, or this one alone; a second call changes nothing.

    NCCL carries tensors between GPUs and gloo all else; with GPUs this process's becomes the
    current one (`torch.device("cuda")`).
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend)
        atexit.register(_leave)
    return World(dist.get_rank(), dist.get_world_size())


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
