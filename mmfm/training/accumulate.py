"""Forward and backward of one step, of a batch that may be too large to be seen at once.

A loss that is a mean over samples is the mean of its parts. A contrastive loss is not: gradient
caching (GradCache, 2101.06983) encodes all parts without a graph, takes the loss of all features
together and its gradient for each, and encodes the parts again, one graph at a time, to hand that
gradient on. The last part's first graph is kept, so that of P parts only P - 1 are encoded twice.
On a CPU the second encoding is also spared the products that are dear and small (`Products`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmfm.errors import InputError
from mmfm.training.task import PairTask, Task

Seeds = Callable[[int], torch.Generator]

_BLOCK = 2**24  # numbers; untouched pages of it take no memory
_OTHER = 0x5DEECE66D  # so that dropout does not draw the same numbers as the part's generator


def backward(task: Task, batch: Any, parts: int, seeds: Seeds) -> tuple[Tensor, dict[str, Any]]:
    """Add the gradient of the batch's loss to `.grad`; the loss (scalar, no graph), what to log.

    parts: slices of the batch that are seen one after another, of equal length where it divides;
    1 is the plain `task.loss(batch)` and its backward. A `PairTask` has the same gradient for any
    number of parts, the loss of another task is the mean of its parts; numbers to log are averaged.
    seeds: the generator of a part, at its start each time it is asked for. torch's own generator
    is seeded after it, so that a part's second encoding repeats its dropout. Raises InputError
    when there are more parts than samples.

    Gradients stay on this process: who averages them over processes does so afterwards.
    """
    if not 1 <= parts <= len(batch):
        raise InputError(f"a batch of {len(batch)} cannot be seen in {parts} parts; take fewer")
    if parts == 1:
        loss, words = task.loss(batch, _start(seeds, 0))
        loss.backward()
        return loss.detach(), words
    bounds = [len(batch) * part // parts for part in range(parts + 1)]
    pieces = [slice(first, after) for first, after in pairwise(bounds)]
    shares = [(piece.stop - piece.start) / len(batch) for piece in pieces]
    if isinstance(task, PairTask):
        # why not elsewhere: a GPU would wait for Python to look at every operation
        slow = all(p.device.type == "cpu" for p in task.module.parameters())
        products = [Products() if slow else nullcontext() for _ in pieces]
        return _cached(task, [batch[piece] for piece in pieces], shares, seeds, products)
    losses, logged = [], []
    for part, (piece, share) in enumerate(zip(pieces, shares)):
        loss, words = task.loss(batch[piece], _start(seeds, part))
        (share * loss).backward()
        losses.append(share * loss.detach())
        logged.append(words)
    return torch.stack(losses).sum(), _mean(logged, shares)


def _cached(
    task: PairTask, batches: list[Any], shares: list[float], seeds: Seeds,
    products: Sequence[AbstractContextManager],
) -> tuple[Tensor, dict[str, Any]]:  # fmt: skip
    def encode(part: int):
        return task.encode(batches[part], _start(seeds, part))

    *others, last = range(len(batches))
    cached = []
    for part in others:
        with torch.no_grad(), products[part]:
            cached.append(encode(part)[0])
    kept = encode(last)
    learning = [x.requires_grad for x in kept[0]]  # not so ids, nor features of a frozen tower
    whole = [torch.cat(x).detach() for x in zip(*cached, kept[0], strict=True)]
    for x, needed in zip(whole, learning, strict=True):
        x.requires_grad_(needed)
    loss = task.pair_loss(whole)
    loss.backward()  # to the features, and to parameters of the loss itself
    lengths = [len(cut[0]) for cut in [*cached, kept[0]]]
    gradients = [x.grad.split(lengths) for x in whole if x.grad is not None]
    total, logged = loss.detach(), []
    for part in (last, *others):  # the kept graph is gone before another is built
        if kept is None:
            with products[part]:
                kept = encode(part)
        (features, own, words), kept = kept, None
        roots = [x for x, needed in zip(features, learning, strict=True) if needed]
        upstream = [gradient[part] for gradient in gradients]
        if own is not None:
            total = total + shares[part] * own.detach()
            if own.requires_grad:
                roots.append(own)
                upstream.append(torch.full_like(own, shares[part]))
        if roots:
            torch.autograd.backward(roots, upstream)
        logged.append(words)
    return total, _mean(logged, [shares[last], *shares[:last]])


class Products(TorchDispatchMode):
    """Inside it for the first time, outputs of narrowing linear layers are kept; inside it again,
    they are given, in that order, in place of being computed. Both times must do the same.

    In a transformer that is the MLP's second layer: a third of the arithmetic of its products, 4%
    of the memory of its graph.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept: deque[Tensor] = deque()
        self.room = torch.empty(0)
        self.giving = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is not torch.ops.aten.addmm.default or args[2].shape[0] < 2 * args[2].shape[1]:
            return func(*args, **(kwargs or {}))
        if self.giving:
            return self.kept.popleft()
        output = func(*args, **(kwargs or {}))
        self.kept.append(self._copy(output))  # whoever gets it may change it in place
        return output

    def _copy(self, output: Tensor) -> Tensor:
        """Side by side in large blocks: small ones between what comes and goes would keep the heap
        from shrinking, by a fifth of a step's memory."""
        if self.room.numel() < output.numel() or self.room.dtype != output.dtype:
            self.room = output.new_empty(max(_BLOCK, output.numel()))
        place, self.room = self.room[: output.numel()], self.room[output.numel() :]
        return place.view_as(output).copy_(output)

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        self.giving = True
        self.room = torch.empty(0)


def _start(seeds: Seeds, part: int) -> torch.Generator:
    generator = seeds(part)
    torch.manual_seed(generator.initial_seed() ^ _OTHER)
    return generator


def _mean(logged: list[dict[str, Any]], shares: list[float]) -> dict[str, Any]:
    """Numbers averaged over the parts; of anything else the first part's."""
    return {
        name: sum(share * words[name] for words, share in zip(logged, shares, strict=True))
        if isinstance(value, (int, float, Tensor))
        else value
        for name, value in logged[0].items()
    }
