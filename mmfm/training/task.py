"""What the loop trains: a module with a loss. The loop knows nothing else of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor, nn


class Task(Protocol):
    """A module and its loss.

    A batch is whatever `batches.batch(step)` gives (row numbers, or a `Batch`): it has a length
    and can be sliced. Randomness comes only from `generator`, or from torch's global generator,
    which the loop seeds before each call.
    """

    module: nn.Module  # what is trained and averaged

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """Scalar loss, the mean over the batch, and parts to log."""

    def evaluate(self, module: nn.Module) -> tuple[dict[str, Any], dict[str, Image.Image]]:
        """Numbers and sample sheets on held-out data, with the averaged weights."""


@runtime_checkable
class PairTask(Protocol):
    """A task whose loss compares every sample of the batch with every other (contrastive).

    Its `loss` is `pair_loss(features) + own`, of one `encode` of the whole batch. Said apart, the
    loop can encode a large batch part by part (gradient caching) and over many processes.
    """

    def encode(
        self, batch: Any, generator: torch.Generator
    ) -> tuple[Sequence[Tensor], Tensor | None, dict[str, Any]]:
        """Features, each (B, ...); what of the loss needs no other sample (or None); parts."""

    def pair_loss(self, features: Sequence[Tensor]) -> Tensor:
        """Scalar loss of all features together; parameters of its own (the scale) get gradients."""
