"""The decoding step of a caption head with as few operations as it takes.

One token a row is so little work that calling modules and reading matrices against their grain cost
more than the arithmetic. A `Stepper` reads weights that a `Program` laid out once so that a product
of a few rows runs along memory, writes keys and values into room that is there already, and
computes what the rows read of the picture once. Its logits equal the head's plain forward pass up
to rounding. Rows may be taken out (texts that ended) or put in another order (beams).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfm.errors import InputError

Place = tuple[dict, str, Tensor, int, int]  # where a weight is kept, its name, it, its state
Affine = tuple[Tensor, Tensor]  # of a norm: weight, bias; of a product: (E_in, E_out), bias


@dataclass(frozen=True)
class Own:
    """Attention to the text so far."""

    norm: Affine
    qkv: Affine
    out: Affine


@dataclass(frozen=True)
class Picture:
    """Attention to the memory; q is scaled already, keys and values are in the program."""

    norm: Affine
    q: Affine
    out: Affine


@dataclass(frozen=True)
class Think:
    """The two products of an MLP."""

    norm: Affine
    fc1: Affine
    fc2: Affine
    activation: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Program:
    """A head as the step computes it: parts, each added to the residual, one after the other."""

    parts: Sequence[Own | Picture | Think]
    embedding: Tensor  # (V, E)
    positions: Tensor  # (max_tokens, E)
    norm: Affine
    output: Tensor  # (E, V)
    read_memory: Affine  # keys and values of every Picture, in one product of the memory
    norm_memory: bool  # whether the memory is normed before that
    num_heads: int
    places: list[Place]  # of the weights that it was made of

    def is_current(self) -> bool:
        """False once a weight was replaced, moved or written to."""
        return all(
            id(kept.get(name)) == id(weight)
            and _version(weight) == version
            and weight.data_ptr() == address
            for kept, name, weight, version, address in self.places
        )

    def count(self, kind: type) -> int:
        return sum(isinstance(part, kind) for part in self.parts)


def places(module: nn.Module) -> list[Place]:
    """Every weight of a module with what changes when it does."""
    found = []
    for owner in module.modules():
        kept: dict[str, Any] = owner._parameters
        for name, weight in kept.items():
            if weight is not None:
                found.append((kept, name, weight, _version(weight), weight.data_ptr()))
    return found


def _version(weight: Tensor) -> int:
    """How often it was written to; torch does not count for weights made in inference mode."""
    return 0 if weight.is_inference() else weight._version


def along(weight: Tensor, bias: Tensor, scale: float | Tensor = 1.0) -> Affine:
    """(E_out, E_in) and a bias as (E_in, E_out), contiguous. scale: one, or of each output.

    why: for 1 to 16 rows the product takes 0.6 times as long on a CPU.
    """
    return (weight.detach().t() * scale).contiguous(), bias.detach() * scale


class Stepper:
    """One decoding run of B rows over memory (B, M, E), mask (B, M); `length` tokens are read."""

    @torch.no_grad()
    def __init__(self, program: Program, memory: Tensor, memory_mask: Tensor) -> None:
        self.program = program
        batch, count, _ = memory.shape
        self.width, self.num_heads = program.embedding.shape[1], program.num_heads
        self.head = self.width // self.num_heads
        if program.norm_memory:
            memory = F.layer_norm(memory, memory.shape[-1:])
        weight, bias = program.read_memory
        read = torch.addmm(bias, memory.flatten(0, 1), weight).view(
            batch, count, program.count(Picture), 2, self.num_heads, self.head
        )
        # of each Picture: (B, A, K, M) and (B, A, M, K)
        self.keys = [*read[:, :, :, 0].permute(2, 0, 3, 4, 1).contiguous()]
        self.values = [*read[:, :, :, 1].permute(2, 0, 3, 1, 4).contiguous()]
        self.closed: Tensor | None = None  # (B, A, 1, M), -inf where a row may not read
        if not bool(memory_mask.all()):
            closed = memory.new_zeros(memory_mask.shape).masked_fill(~memory_mask, -torch.inf)
            self.closed = closed[:, None, None].expand(-1, self.num_heads, -1, -1).contiguous()
        # of all parts: keys and values (owns, B, max_tokens, 2, A, K) of the texts
        self.own = memory.new_empty(
            program.count(Own), batch, len(program.positions), 2, self.num_heads, self.head
        )
        self.length = 0

    def __len__(self) -> int:
        return self.own.shape[1]

    def take(self, rows: Tensor) -> None:
        """Row i goes on from row `rows[i]`: fewer rows, or more that begin alike."""
        before, length = self.own, self.length
        self.own = before.new_empty(len(before), len(rows), *before.shape[2:])
        self.own[:, :, :length] = before[:, rows, :length]
        self.keys = [keys[rows] for keys in self.keys]
        self.values = [values[rows] for values in self.values]
        self.closed = None if self.closed is None else self.closed[rows]

    def reorder(self, rows: Tensor) -> None:
        """`take` where row `rows[i]` reads the same picture as row i (beams of one picture)."""
        self.own[:, :, : self.length] = self.own[:, rows, : self.length]

    @torch.no_grad()
    def read(self, token_ids: Tensor) -> Tensor:
        """Read token_ids (B, T) after what was read; logits (B, V) of the next token.

        Raises InputError when there is no room for so many.
        """
        last = self._states(token_ids)[token_ids.shape[1] - 1 :: token_ids.shape[1]]
        return torch.mm(self._normed(last, self.program.norm), self.program.output)

    @torch.no_grad()
    def logits(self, token_ids: Tensor, where: Tensor) -> Tensor:
        """(n, V) of the token after each place of token_ids (B, T) where `where` (B, T) is True."""
        states = self._states(token_ids)[where.flatten()]
        return torch.mm(self._normed(states, self.program.norm), self.program.output)

    def _states(self, token_ids: Tensor) -> Tensor:
        """(B * T, E), before the last norm; text i in rows i * T to i * T + T - 1."""
        count = token_ids.shape[1]
        expect_room(self.length + count, len(self.program.positions))
        x = F.embedding(token_ids, self.program.embedding)
        x = x.add_(self.program.positions[self.length : self.length + count]).flatten(0, 1)
        earlier: Tensor | None = None  # (T, length + T), True = is read; None where that is all
        if count > 1:
            earlier = x.new_ones(count, self.length + count, dtype=torch.bool).tril(self.length)
        own, keys, values = iter(self.own), iter(self.keys), iter(self.values)
        for part in self.program.parts:
            h = self._normed(x, part.norm)
            if isinstance(part, Think):
                weight, bias = part.fc2
                y = part.activation(torch.addmm(part.fc1[1], h, part.fc1[0]))
            elif isinstance(part, Own):
                weight, bias = part.out
                y = self._read_own(part, next(own), h, earlier, count)
            else:
                weight, bias = part.out
                y = self._read_picture(part, next(keys), next(values), h, count)
            x.add_(bias).addmm_(y, weight)
        self.length += count
        return x

    def _normed(self, x: Tensor, norm: Affine) -> Tensor:
        return torch.layer_norm(x, (self.width,), *norm)

    def _read_own(
        self, part: Own, own: Tensor, h: Tensor, earlier: Tensor | None, count: int
    ) -> Tensor:
        qkv = torch.addmm(part.qkv[1], h, part.qkv[0])
        qkv = qkv.view(-1, count, 3, self.num_heads, self.head)
        end = self.length + count
        own[:, self.length : end] = qkv[:, :, 1:]
        keys, values = own[:, :end].permute(2, 0, 3, 1, 4)  # (B, A, end, K)
        q = qkv[:, :, 0].transpose(1, 2)  # (B, A, T, K)
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=earlier)
        return y.transpose(1, 2).reshape(-1, self.width)

    def _read_picture(
        self, part: Picture, keys: Tensor, values: Tensor, h: Tensor, count: int
    ) -> Tensor:
        q = torch.addmm(part.q[1], h, part.q[0])
        if count > 1:
            q = q.view(-1, count, self.num_heads, self.head).transpose(1, 2)
        scores = torch.bmm(q.reshape(-1, count, self.head), keys.flatten(0, 1))  # (B * A, T, M)
        if self.closed is not None:
            scores.add_(self.closed.flatten(0, 1))
        y = torch.bmm(scores.softmax(dim=-1), values.flatten(0, 1))
        if count > 1:
            y = y.view(-1, self.num_heads, count, self.head).transpose(1, 2)
        return y.reshape(-1, self.width)


def gelu(x: Tensor) -> Tensor:
    """The exact one.

    why not F.gelu: for a contiguous tensor it calls oneDNN, which takes 14 us to begin with on a
    CPU, seven times the work on one row; a transposed one goes through torch's own loop.
    """
    return F.gelu(x.view(2, -1).t()).t().view_as(x)


def expect_room(length: int, most: int) -> None:
    """Raises InputError when a sequence of `length` tokens is more than the `most` that fit."""
    if length > most:
        raise InputError(
            f"a sequence of {length} tokens is too long, the caption head takes at most {most}; "
            "shorten the text or the prompt"
        )


def head_scale(width: int, num_heads: int) -> float:
    """What queries are multiplied with, 1 / sqrt(K)."""
    return 1 / math.sqrt(width // num_heads)
