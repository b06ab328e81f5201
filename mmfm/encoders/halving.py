"""A batch through a network, in smaller parts where memory does not hold it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor

from mmfm.errors import ModelError

R = TypeVar("R")


class Halving(Generic[R]):
    """Calls `encode` with parts of what it is given, halving them each time memory runs out.

    A size that fitted is kept for the batches that follow. what: one row, as an error calls it.
    """

    def __init__(self, encode: Callable[[Tensor], R], what: str) -> None:
        self.encode = encode
        self.what = what
        self.most: int | None = None  # rows; None until memory has run out once

    def __call__(self, batch: Tensor) -> Iterator[R]:
        """The results of the parts of batch (B, ...), in order.

        Raises ModelError when not even one row fits.
        """
        start = 0
        while start < len(batch):
            part = batch[start : start + (self.most or len(batch))]
            made = self._try(part)
            if made is None:
                self._halve(part)
                continue
            yield made
            start += len(part)

    def _try(self, part: Tensor) -> R | None:
        # why a method: what the failed call held is freed when its frames are, before the next try
        try:
            return self.encode(part)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _halve(self, part: Tensor) -> None:
        if len(part) == 1:
            raise ModelError(
                f"Memory of the device {str(part.device)!r} does not hold the model's work on "
                f"one {self.what}; free some, choose another device, or a smaller model."
            )
        self.most = len(part) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python could not have the memory it asked for."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # why: for the CPU, for Apple's GPUs and from ONNX Runtime it is told only in words
    words = str(error)
    return "allocate memory" in words or "out of memory" in words
