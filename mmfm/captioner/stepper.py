"""The decoding step of the caption head with as few operations as it takes.

One token a row is so little work that calling modules and reading matrices against their grain cost
more than the arithmetic. A `Stepper` reads the network's own float32 weights, laid out once so that
a product of a few rows runs along memory, writes keys and values into room that is there already,
and computes what the rows read of the picture once. Its logits equal `Captioner.forward` up to
rounding. Rows may be taken out (texts that ended) or put in another order (beams).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from mmfm.captioner.network import Attention, Block, Captioner

_EPS = 1e-5  # of torch's LayerNorm


@dataclass(frozen=True)
class _Layer:
    """Weights of one block: (E_in, E_out) matrices, each with its bias; norms as pairs."""

    norm_self: tuple[Tensor, Tensor]
    qkv: tuple[Tensor, Tensor]
    out_self: tuple[Tensor, Tensor]
    norm_cross: tuple[Tensor, Tensor]
    q: tuple[Tensor, Tensor]
    out_cross: tuple[Tensor, Tensor]
    norm_mlp: tuple[Tensor, Tensor]
    fc1: tuple[Tensor, Tensor]
    fc2: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, block: Block) -> _Layer:
        own, cross, mlp = block.self_attention, block.cross_attention, block.mlp
        return cls(
            _norm(block.norm_self), _along(own.qkv), _along(own.out),
            _norm(block.norm_cross), _along(cross.q, _scale(cross)), _along(cross.out),
            _norm(block.norm_mlp), _along(mlp.fc1), _along(mlp.fc2),
        )  # fmt: skip


@dataclass(frozen=True)
class _Packed:
    """A network's weights as the step reads them, and what tells whether they are still its own."""

    layers: list[_Layer]
    embedding: Tensor  # (V, E)
    output: Tensor  # (E, V)
    norm: tuple[Tensor, Tensor]
    stamp: tuple


_PACKED: WeakKeyDictionary[Captioner, _Packed] = WeakKeyDictionary()


def _scale(attention: Attention) -> float:
    return 1 / math.sqrt(attention.out.in_features // attention.num_heads)


def _along(linear: torch.nn.Linear, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """(E_in, E_out) contiguous, and the bias. why: 1.6 times as fast for 1 to 16 rows on a CPU."""
    return (linear.weight.detach().t() * scale).contiguous(), linear.bias.detach() * scale


def _norm(norm: torch.nn.LayerNorm) -> tuple[Tensor, Tensor]:
    return norm.weight.detach(), norm.bias.detach()


def _stamp(network: Captioner) -> tuple:
    """Changes when a weight is replaced, moved or written to."""
    return tuple((p.data_ptr(), p._version, p.device) for p in network.parameters())


def _packed(network: Captioner) -> _Packed:
    found, stamp = _PACKED.get(network), _stamp(network)
    if found is None or found.stamp != stamp:
        embedding = network.token_embedding.weight.detach()
        found = _PACKED[network] = _Packed(
            [_Layer.of(block) for block in network.blocks],
            embedding, embedding.t().contiguous(), _norm(network.norm), stamp,
        )  # fmt: skip
    return found


class Stepper:
    """One decoding run of B rows over memory (B, M, E), mask (B, M); `length` tokens are read."""

    @torch.no_grad()
    def __init__(self, network: Captioner, memory: Tensor, memory_mask: Tensor) -> None:
        config = network.config
        self.network = network
        self.weights = _packed(network)
        self.num_heads, self.width = config.num_heads, config.width
        self.head = config.width // config.num_heads
        self.cross = [block.read_memory(memory) for block in network.blocks]  # (B, A, M, K) twice
        self.mask = memory_mask
        # of all layers: keys and values (depth, 2, B, A, max_tokens, K)
        self.own = memory.new_empty(
            config.depth, 2, len(memory), self.num_heads, config.max_tokens, self.head
        )
        self.length = 0
        self._lay_out()

    def __len__(self) -> int:
        return self.own.shape[2]

    def _lay_out(self) -> None:
        """What the step reads of the picture, one matrix for each row and head."""
        self.keys = [k.flatten(0, 1).transpose(1, 2).contiguous() for k, _ in self.cross]  # K, M
        self.values = [v.flatten(0, 1).contiguous() for _, v in self.cross]  # (B * A, M, K)
        self.closed = None
        if not bool(self.mask.all()):  # (B * A, 1, M), -inf where a row may not read
            added = self.own.new_zeros(self.mask.shape).masked_fill(~self.mask, -torch.inf)
            self.closed = added.repeat_interleave(self.num_heads, dim=0)[:, None]

    def take(self, rows: Tensor) -> None:
        """Row i goes on from row `rows[i]`: fewer rows, or more that begin alike."""
        before, length = self.own, self.length
        self.own = before.new_empty(*before.shape[:2], len(rows), *before.shape[3:])
        self.own[..., :length, :] = before[:, :, rows, :, :length]
        self.cross = [(keys[rows], values[rows]) for keys, values in self.cross]
        self.mask = self.mask[rows]
        self._lay_out()

    def reorder(self, rows: Tensor) -> None:
        """`take` where row `rows[i]` reads the same picture as row i (beams of one picture)."""
        self.own[..., : self.length, :] = self.own[:, :, rows, :, : self.length]

    @torch.no_grad()
    def read(self, token_ids: Tensor) -> Tensor:
        """Read token_ids (B, T) after what was read; logits (B, V) of the next token.

        T is 1, or, before anything was read, the length of a prompt. Raises InputError when the
        network has no room for so many.
        """
        count = token_ids.shape[1]
        self.network.expect_room(self.length + count)
        if count == 1:
            hidden = self._advance(token_ids[:, 0])
        elif self.length:
            raise ValueError(f"got {count} tokens after {self.length}; read them one at a time")
        else:
            hidden = self._read_prompt(token_ids)
        return torch.mm(self._normed(hidden, self.weights.norm), self.weights.output)

    def _read_prompt(self, token_ids: Tensor) -> Tensor:
        x = self.network.embed(token_ids, 0)
        for block, own, cross in zip(self.network.blocks, self.own, self.cross, strict=True):
            x = block(x, cross, self.mask, own, 0)
        self.length = token_ids.shape[1]
        return x[:, -1]

    def _normed(self, x: Tensor, norm: tuple[Tensor, Tensor]) -> Tensor:
        return torch.layer_norm(x, (self.width,), *norm, _EPS)

    def _advance(self, token_ids: Tensor) -> Tensor:
        """Final states (B, E) of one more token a row, before the last norm."""
        x = F.embedding(token_ids, self.weights.embedding)
        x.add_(self.network.positions[self.length])
        for number, layer in enumerate(self.weights.layers):
            x.add_(self._read_own(layer, self.own[number], x))
            x.add_(self._read_picture(layer, number, x))
            hidden = F.gelu(
                torch.addmm(layer.fc1[1], self._normed(x, layer.norm_mlp), layer.fc1[0])
            )
            x.add_(torch.addmm(layer.fc2[1], hidden, layer.fc2[0]))
        self.length += 1
        return x

    def _read_own(self, layer: _Layer, own: Tensor, x: Tensor) -> Tensor:
        qkv = torch.addmm(layer.qkv[1], self._normed(x, layer.norm_self), layer.qkv[0])
        qkv = qkv.view(len(x), 3, self.num_heads, self.head)
        own[:, :, :, self.length] = qkv[:, 1:].transpose(0, 1)
        keys, values = own[..., : self.length + 1, :]
        y = F.scaled_dot_product_attention(qkv[:, 0, :, None], keys, values)  # (B, A, 1, K)
        return torch.addmm(layer.out_self[1], y.reshape(len(x), -1), layer.out_self[0])

    def _read_picture(self, layer: _Layer, number: int, x: Tensor) -> Tensor:
        q = torch.addmm(layer.q[1], self._normed(x, layer.norm_cross), layer.q[0])  # scaled already
        scores = torch.bmm(q.view(-1, 1, self.head), self.keys[number])
        if self.closed is not None:
            scores.add_(self.closed)
        y = torch.bmm(scores.softmax(dim=-1), self.values[number])
        return torch.addmm(layer.out_cross[1], y.view(len(x), -1), layer.out_cross[0])
