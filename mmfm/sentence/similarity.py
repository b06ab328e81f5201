"""How two sets of vectors are compared: the four functions of sentence-transformers, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return a @ b.T


def _euclidean(a: Tensor, b: Tensor) -> Tensor:
    return -torch.cdist(a, b)


def _manhattan(a: Tensor, b: Tensor) -> Tensor:
    return -torch.cdist(a, b, p=1.0)


_OF_PAIRS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": lambda a, b: (F.normalize(a, dim=-1) * F.normalize(b, dim=-1)).sum(dim=-1),
    "dot": lambda a, b: (a * b).sum(dim=-1),
    "euclidean": lambda a, b: -(a - b).norm(dim=-1),
    "manhattan": lambda a, b: -(a - b).abs().sum(dim=-1),
}
_OF_ALL = {"cosine": _cosine, "dot": _dot, "euclidean": _euclidean, "manhattan": _manhattan}
SIMILARITIES = tuple(_OF_ALL)


def similarity(name: str, a: Any, b: Any) -> Tensor:
    """(M, N) float32, higher is nearer (distances are negated), of (M, D) or (D,) and (N, D)."""
    return _OF_ALL[name](torch.atleast_2d(_tensor(a)), torch.atleast_2d(_tensor(b)))


def similarity_pairwise(name: str, a: Any, b: Any) -> Tensor:
    """(N,) float32: of row i of `a` and row i of `b`."""
    return _OF_PAIRS[name](_tensor(a), _tensor(b))


def _tensor(vectors: Any) -> Tensor:
    if isinstance(vectors, (list, tuple)) and vectors and isinstance(vectors[0], Tensor):
        vectors = torch.stack(list(vectors))
    if not isinstance(vectors, Tensor):
        vectors = torch.from_numpy(np.ascontiguousarray(vectors))
    return vectors.float()
