"""How a task's module computes on one process or many: alone, replicated (DDP), sharded (FSDP2).

Each has the same face: `backward` leaves exact gradients of the global batch in the parameters,
`average` keeps their exponential average, `averaged()` gives it as an ordinary whole module.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from mmfm.errors import InputError
from mmfm.training.accumulate import Seeds, backward
from mmfm.training.distributed import World
from mmfm.training.loop_config import LoopConfig
from mmfm.training.optim import Average
from mmfm.training.task import PairTask, Task


class Alone:
    """One process."""

    def __init__(self, task: Task, config: LoopConfig) -> None:
        self.module = task.module
        self.shell = Shell(task, config.precision)
        self.average = Average(task.module, config.ema_decay)

    def backward(self, batch: Any, parts: int, seeds: Seeds) -> tuple[Tensor, dict[str, Any]]:
        """Gradients of the batch; returns its loss and parts to log."""
        return backward(self._task(self.shell), batch, parts, seeds)

    def averaged(self) -> nn.Module:
        """The averaged module, whole, in evaluation mode. Called by every process."""
        return self.average.module.eval()

    def _task(self, through: nn.Module) -> Task:
        pair = isinstance(self.shell.task[0], PairTask)
        return (_ThroughPair if pair else _Through)(self.module, through)  # type: ignore[return-value]


class Replicated(Alone):
    """DDP: every process holds all weights; gradients are averaged while they are computed."""

    def __init__(self, task: Task, config: LoopConfig) -> None:
        super().__init__(task, config)
        self.wrapped = DistributedDataParallel(
            self.shell, find_unused_parameters=True, gradient_as_bucket_view=True
        )

    def backward(self, batch: Any, parts: int, seeds: Seeds) -> tuple[Tensor, dict[str, Any]]:
        if parts == 1:
            return backward(self._task(self.wrapped), batch, 1, seeds)
        result = super().backward(batch, parts, seeds)  # past the hooks: nothing is sent yet
        self.wrapped(None).backward()
        return result


class Sharded(Alone):
    """FSDP2: weights, gradients, optimizer and average are cut across the processes.

    Single numbers (the scale of the logits) stay whole everywhere. The averaged module is put
    together on every process for as long as an evaluation takes.
    """

    def __init__(self, task: Task, config: LoopConfig) -> None:
        module = self.module = task.module
        self.shell = Shell(task, config.precision)
        self._skeleton = _rebuilt(module, (_empty(p) for p in module.parameters()))
        self._numbers = [p for p in module.parameters() if p.dim() == 0]
        ignored = set(self._numbers)
        for block in blocks(module):
            fully_shard(block, ignored_params=ignored)
        fully_shard(self.shell, ignored_params=ignored)
        if config.ema_decay:  # FSDP2 refuses a deep copy, so the twin grows from the skeleton
            module = _rebuilt(self._skeleton, [p.detach().clone() for p in module.parameters()])
        self.average = Average(module, config.ema_decay)

    def backward(self, batch: Any, parts: int, seeds: Seeds) -> tuple[Tensor, dict[str, Any]]:
        result = super().backward(batch, parts, seeds)
        for number in self._numbers:
            if number.grad is not None:
                dist.all_reduce(number.grad)
                number.grad /= dist.get_world_size()
        return result

    def averaged(self) -> nn.Module:
        source = self.average.module
        with torch.no_grad():
            whole = (_whole(p) for p in source.parameters())
            return _rebuilt(self._skeleton, whole, source).eval()


def arrange(task: Task, config: LoopConfig, world: World) -> Alone:
    """The arrangement that `config.parallel` names, when there are several processes."""
    if config.precision == "bf16":
        _check_bf16(task.module)
    if world.size == 1:
        return Alone(task, config)
    return (Sharded if config.parallel == "fsdp2" else Replicated)(task, config)


def blocks(module: nn.Module) -> list[nn.Module]:
    """The repeated parts of a module: members of a ModuleList or Sequential, all of one class.

    They are what is compiled and sharded one by one. Containers inside blocks do not count.
    """
    found: list[nn.Module] = []
    for child in module.children():
        members = list(child.children())
        kinds = {type(member) for member in members}
        listed = isinstance(child, (nn.ModuleList, nn.Sequential))
        large = all(any(p.dim() >= 2 for p in member.parameters()) for member in members)
        if listed and len(members) > 1 and len(kinds) == 1 and large:
            found += members
        else:
            found += blocks(child)
    return found


class Shell(nn.Module):
    """A task's methods as one `forward`, which is where DDP and FSDP2 hook in.

    `shell(name, ...)` is `task.name(...)` in the precision asked for. `shell(None)` is 0 and
    depends on every parameter that has a gradient: its backward sends what was accumulated.
    """

    def __init__(self, task: Task, precision: str) -> None:
        super().__init__()
        self.module = task.module
        self.task = (task,)  # hidden in a tuple: a task that is a module would count twice
        self.half = precision == "bf16"

    def forward(self, name: str | None, *args: Any) -> Any:
        if name is None:
            graded = [p for p in self.module.parameters() if p.grad is not None]
            return torch.stack([0 * p.sum() for p in graded]).sum()
        device = next(self.module.parameters()).device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.half):
            return getattr(self.task[0], name)(*args)


class _Through:
    """A task whose loss is computed through a wrapped shell."""

    def __init__(self, module: nn.Module, shell: nn.Module) -> None:
        self.module = module
        self._shell = shell

    def loss(self, batch: Any, generator: torch.Generator) -> Any:
        return self._shell("loss", batch, generator)


class _ThroughPair(_Through):
    """The same of a PairTask."""

    def encode(self, batch: Any, generator: torch.Generator) -> Any:
        return self._shell("encode", batch, generator)

    def pair_loss(self, features: Any) -> Any:
        return self._shell("pair_loss", features)


def _check_bf16(module: nn.Module) -> None:
    kinds = {p.device.type for p in module.parameters()}
    if kinds == {"cuda"} and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise InputError("precision is bf16, which this GPU does not have; take precision=fp32")
    if kinds == {"cpu"} and not any(
        _cpu_able(name) for name in ("avx512_bf16", "amx_bf16", "bf16")
    ):
        warnings.warn(
            "this processor has no bf16 arithmetic: precision=bf16 is emulated, slower than fp32",
            stacklevel=4,
        )


def _cpu_able(name: str) -> bool:
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # torch 2.10 has none to ask
    return capabilities is None or bool(capabilities().get(name))


def _rebuilt(
    module: nn.Module, values: Iterable[Tensor], buffers_of: nn.Module | None = None
) -> nn.Module:
    """A copy of a module with other parameters, tied ones still tied; buffers are copied."""
    memo: dict[int, Any] = {}
    for parameter, value in zip(module.parameters(), values, strict=True):
        memo[id(parameter)] = nn.Parameter(value, requires_grad=parameter.requires_grad)
    copied = copy.deepcopy(module, memo)
    if buffers_of is not None:
        for buffer, value in zip(copied.buffers(), buffers_of.buffers(), strict=True):
            buffer.copy_(value)
    return copied


def _empty(parameter: nn.Parameter) -> Tensor:
    return torch.empty_like(parameter, device="meta")


def _whole(parameter: Tensor) -> Tensor:
    value = parameter.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value.clone()
