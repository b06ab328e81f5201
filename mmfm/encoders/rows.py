"""How the tokens of a batch lie in rows: a tower's linear maps see rows (M, width), and only its
attention needs to know which rows belong to one picture or text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Layout(Protocol):
    """grid: rows (M, W) -> (B, L, W); rows: the way back; causal: no token sees a later one."""

    @property
    def causal(self) -> bool: ...

    def grid(self, rows: Tensor) -> Tensor: ...

    def rows(self, grid: Tensor) -> Tensor: ...

    def seen(self) -> Tensor | None:
        """(B, 1, 1, L), True where the pooled token of a sequence looks; None: at all places."""


@dataclass(frozen=True)
class Even:
    """B sequences of the same length L, one after another."""

    length: int
    causal: bool = False

    def grid(self, rows: Tensor) -> Tensor:
        return rows.view(-1, self.length, rows.shape[1])

    def rows(self, grid: Tensor) -> Tensor:
        return grid.flatten(0, 1)

    def seen(self) -> Tensor | None:
        return None


@dataclass(frozen=True)
class Packed:
    """Causal sequences without padding, and with one row for a beginning that several share.

    What a causal token becomes depends on the tokens up to it and on nothing else, so that equal
    beginnings have equal rows.

    ids (M,): the token of each row. positions (M,): its place in the text. ends (B,): the row at
    which each text is pooled. cells (B, L): the row of each place; behind a text's end, any row.
    sources (M,): a cell, counted through all B * L, where each row stands.
    """

    ids: Tensor
    positions: Tensor
    ends: Tensor
    cells: Tensor
    sources: Tensor
    causal: bool = True  # a text's own places are never behind its end

    @classmethod
    def of(cls, ids: Tensor, ends: Tensor) -> Packed:
        """ids (B, T) of texts that end, inclusive, at the places `ends` (B,)."""
        host, last = ids.cpu().numpy(), ends.cpu().numpy()
        length = int(last.max()) + 1
        host = host[:, :length]
        inside = np.arange(length) <= last[:, None]
        order = np.lexsort(np.where(inside, host, -1).T[::-1])  # texts alike are neighbours
        sorted_ids, sorted_inside = host[order], inside[order]
        is_new = sorted_inside.copy()  # else the row of the text before serves here too
        differs = (sorted_ids[1:] != sorted_ids[:-1]) | ~sorted_inside[:-1]
        is_new[1:] &= np.logical_or.accumulate(differs, axis=1)
        number = np.cumsum(is_new).reshape(is_new.shape) - 1
        owner = np.maximum.accumulate(np.where(is_new, np.arange(len(host))[:, None], 0), axis=0)
        cells = np.empty_like(number)
        cells[order] = np.where(sorted_inside, number[owner, np.arange(length)], 0)
        at = np.flatnonzero(is_new)
        places = order[at // length] * length + at % length
        give = [host.reshape(-1)[places], at % length, cells[np.arange(len(host)), last], cells]
        return cls(*(torch.from_numpy(x).to(ids.device) for x in (*give, places)))

    def grid(self, rows: Tensor) -> Tensor:
        return rows[self.cells]

    def rows(self, grid: Tensor) -> Tensor:
        return grid.flatten(0, 1)[self.sources]

    def seen(self) -> Tensor | None:
        places = torch.arange(self.cells.shape[1], device=self.ends.device)
        return (places <= self.positions[self.ends][:, None])[:, None, None]
