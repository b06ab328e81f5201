"""What every vector engine does, so that one suite tests them and a search can change between them.

Ours (`flat`) is exact and needs nothing but numpy; faiss, LanceDB and PostgreSQL are extras.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

Metadata = Mapping[str, Any]  # of one row: JSON values (str, int, float, bool, None) by name


class Found(NamedTuple):
    """Of Q queries the k best rows each, best first; fewer rows than k give that many columns.

    ids: Q lists; scores: (Q, k) float32 cosines, equal ones ordered by id. Under a filter a query
    may have fewer hits than another: its list is shorter and its scores end in -inf.
    """

    ids: list[list[str]]
    scores: np.ndarray


class VectorIndex(Protocol):
    """Rows of (id, unit vector, metadata). What a method has done is safe on disk when it returns.

    Ids are unique strings; adding one that is there replaces it. Vectors are (N, D) float32 and are
    made unit length. Raises DataError for a wrong shape, NaN, a zero vector, as many ids as not
    vectors, the same id twice in one call, or a `where` that cannot be read (see where.py).
    """

    @property
    def dim(self) -> int: ...

    def __len__(self) -> int: ...

    def ids(self) -> list[str]:
        """Of every row, sorted."""
        ...

    def add(
        self, ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[Metadata] | None = None
    ) -> None: ...

    def remove(self, ids: Sequence[str]) -> int:
        """How many of them were there."""
        ...

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """(N, D) float32 in the order asked for. Raises DataError naming an unknown id."""
        ...

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any]]: ...

    def search(self, queries: np.ndarray, k: int = 10, where: Any = None) -> Found:
        """queries (Q, D) or (D,), of any length. `where` keeps rows whose metadata fit."""
        ...

    def close(self) -> None: ...
