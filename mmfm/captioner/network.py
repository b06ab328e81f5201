"""The caption network: a causal transformer that reads an image through two ports.

The grid port takes the tower's image tokens, the pooled port one vector; either may be closed, for
a whole batch or for single samples, so that one network captions pictures, stored vectors and
averages.
Training adds noise to the pooled port, which lets it read text-side vectors too (CapDec,
arXiv:2211.00575). Sequences are: start, prompt tokens, text tokens, end.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfm.captioner.stepper import (
    Affine,
    Own,
    Picture,
    Place,
    Program,
    Stepper,
    Think,
    along,
    expect_room,
    gelu,
    head_scale,
    places,
)
from mmfm.config import CaptionerConfig
from mmfm.errors import InputError
from mmfm.layers.blocks import MLP
from mmfm.layers.plain import plain
from mmfm.shapes import Embeddings, expect_shape


class Attention(nn.Module):
    """Projections of one attention; `out` is a residual projection."""

    def __init__(self, width: int, num_heads: int, cross: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.cross = cross
        if cross:
            self.q = nn.Linear(width, width)
            self.kv = nn.Linear(width, 2 * width)
        else:
            self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """(B, L, E) -> (B, A, L, K)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """Attention of (B, A, L, K) heads, merged and projected to (B, L, E).

        why not torch's fused kernel: texts are short, and on a CPU its backward pass alone took
        four times as long as these products and theirs.
        """
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        y = scores.softmax(dim=-1).to(v.dtype) @ v
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm self-attention, cross-attention to the memory, MLP of ratio 4."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm_self, self.norm_cross, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.self_attention = Attention(width, num_heads, cross=False)
        self.cross_attention = Attention(width, num_heads, cross=True)
        self.mlp = MLP(width)

    def read_memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, E) -> keys and values (B, A, M, K)."""
        attention = self.cross_attention
        k, v = attention.kv(memory).chunk(2, dim=-1)
        return attention.split(k), attention.split(v)

    def forward(
        self,
        x: Tensor,
        cross_kv: tuple[Tensor, Tensor],
        memory_mask: Tensor,
    ) -> Tensor:
        """x: (B, T, E); each token sees those before it, and the memory where the mask is True."""
        attention = self.self_attention
        q, k, v = (attention.split(y) for y in attention.qkv(self.norm_self(x)).chunk(3, dim=-1))
        x = x + attention.attend(q, k, v, None, causal=True)
        attention = self.cross_attention
        q = attention.split(attention.q(self.norm_cross(x)))
        x = x + attention.attend(q, *cross_kv, memory_mask[:, None, None, :], causal=False)
        return x + self.mlp(self.norm_mlp(x))


class Captioner(nn.Module):
    """Writes text about an image: `loss` trains it, `stepper` decodes with it."""

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.token_embedding = nn.Embedding(config.vocab_size, width)  # also the output layer
        self.positions = nn.Parameter(torch.empty(config.max_tokens, width))
        self.grid_norm = nn.LayerNorm(config.token_width)
        self.grid_in = nn.Linear(config.token_width, width)
        self.pooled_in = nn.Linear(config.pooled_width, config.num_pooled_tokens * width)
        self.pooled_norm = nn.LayerNorm(width)
        self.port_types = nn.Parameter(torch.empty(2, width))  # grid, pooled
        self.blocks = nn.ModuleList(Block(width, config.num_heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self._program: Program | None = None  # the weights as `stepper` lays them out
        self.init_weights()

    def __getstate__(self) -> dict:
        """Copies and pickles lay their weights out anew."""
        return {**self.__dict__, "_program": None}

    def init_weights(self) -> None:
        """Initialise every parameter.

        linear, embedding, positions, port types: normal, std 0.02, biases 0
        self/cross attention out, mlp.fc2:        normal, std 0.02 / sqrt(2 * depth)
        grid_in, pooled_in:                       normal, std 1 / sqrt(fan in): unit scale
        layer norms:                              1 and 0 (PyTorch)
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for parameter in (self.token_embedding.weight, self.positions, self.port_types):
            nn.init.normal_(parameter, std=0.02)
        residual_std = 0.02 / math.sqrt(2 * self.config.depth)
        for block in self.blocks:
            for out in (block.self_attention.out, block.cross_attention.out, block.mlp.fc2):
                nn.init.normal_(out.weight, std=residual_std)
        for layer in (self.grid_in, self.pooled_in):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    def memory(
        self,
        embeddings: Embeddings,
        use_grid: bool = True,
        use_pooled: bool = True,
        *,
        grid_open: Tensor | None = None,
        pooled_open: Tensor | None = None,
        pooled_noise: float | Tensor = 0.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What the blocks read: (B, M, width), and its mask (B, M), True = may be read.

        use_grid, use_pooled: False closes a port for the whole batch (no tokens, no work); the grid
        port is also closed where embeddings.tokens is None. grid_open, pooled_open: (B,): False
        closes the port of that sample. pooled_noise: std, a number or (B,), of the normal noise
        added to the pooled vector before it is brought back to unit length.

        Raises InputError when a sample would be left without any open port.
        """
        batch = len(embeddings)
        parts, masks = [], []
        if use_grid and embeddings.tokens is not None:
            tokens = embeddings.tokens.to(self.grid_in.weight.dtype)
            expect_shape(tokens, f"B N {self.config.token_width}", "embeddings.tokens")
            parts.append(self.grid_in(self.grid_norm(tokens)) + self.port_types[0])
            mask = embeddings.mask
            mask = tokens.new_ones(tokens.shape[:2], dtype=torch.bool) if mask is None else mask
            masks.append(mask if grid_open is None else mask & grid_open[:, None])
        if use_pooled:
            pooled = embeddings.pooled.to(self.pooled_in.weight.dtype)
            expect_shape(pooled, f"B {self.config.pooled_width}", "embeddings.pooled")
            pooled = add_noise(pooled, pooled_noise, generator)
            # why: entries of a unit vector are ~ 1/sqrt(D); the square root makes them ~ 1
            y = self.pooled_in(pooled * math.sqrt(self.config.pooled_width))
            y = y.unflatten(-1, (self.config.num_pooled_tokens, -1))  # (B, num_pooled_tokens, E)
            parts.append(self.pooled_norm(y) + self.port_types[1])
            mask = y.new_ones(y.shape[:2], dtype=torch.bool)
            masks.append(mask if pooled_open is None else mask & pooled_open[:, None])
        mask = torch.cat(masks, dim=1) if masks else torch.zeros(batch, 0, dtype=torch.bool)
        if not bool(mask.any(dim=1).all()):
            raise InputError(
                "a caption needs an open port, but grid and pooled are both closed or missing for "
                "some sample; open one of them"
            )
        return torch.cat(parts, dim=1), mask

    def forward(self, token_ids: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """Logits (B, T, V) of the token after each of token_ids (B, T), T <= max_tokens."""
        return self.logits(self.hidden(token_ids, memory, memory_mask))

    def hidden(self, token_ids: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """Final states (B, T, E), before the output layer."""
        expect_room(token_ids.shape[1], self.config.max_tokens)
        x = self.token_embedding(token_ids) + self.positions[: token_ids.shape[1]]
        for block in self.blocks:
            x = block(x, block.read_memory(memory), memory_mask)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., E) -> (..., V), by the token embedding itself."""
        return F.linear(hidden, self.token_embedding.weight)

    def loss(
        self, embeddings: Embeddings, token_ids: Tensor, target_mask: Tensor, **ports
    ) -> Tensor:
        """Mean cross entropy (nats per token) over the positions whose NEXT token counts.

        token_ids: (B, T), padded on the right. target_mask: (B, T) bool, False in the last column;
        at least one True. ports: keyword arguments of `memory`.
        """
        expect_shape(token_ids, "B T", "token_ids")
        memory, memory_mask = self.memory(embeddings, **ports)
        hidden = self.hidden(token_ids[:, :-1], memory, memory_mask)
        counts = target_mask[:, :-1]
        # why: the output layer is the widest; it runs only where a token counts
        logits = self.logits(hidden[counts])
        return F.cross_entropy(logits.float(), token_ids[:, 1:][counts])

    @property
    def max_tokens(self) -> int:
        """Longest sequence, start and end included."""
        return self.config.max_tokens

    def stepper(self, memory: Tensor, memory_mask: Tensor) -> Stepper:
        """Decoding over this memory (B, M, E), mask (B, M)."""
        expect_shape(memory, f"B M {self.config.width}", "memory")
        if self._program is None or not self._program.is_current():
            self._program = _program(plain(self), places(self))
        return Stepper(self._program, memory, memory_mask)


def _program(network: Captioner, kept: list[Place]) -> Program:
    config, norm = network.config, _norm_of
    parts: list[Own | Picture | Think] = []
    readers = []
    for block in network.blocks:
        own, cross, mlp = block.self_attention, block.cross_attention, block.mlp
        scale = head_scale(config.width, config.num_heads)
        parts += [
            Own(norm(block.norm_self), along(own.qkv.weight, own.qkv.bias),
                along(own.out.weight, own.out.bias)),
            Picture(norm(block.norm_cross), along(cross.q.weight, cross.q.bias, scale),
                    along(cross.out.weight, cross.out.bias)),
            Think(norm(block.norm_mlp), along(mlp.fc1.weight, mlp.fc1.bias),
                  along(mlp.fc2.weight, mlp.fc2.bias), gelu),
        ]  # fmt: skip
        readers.append(along(cross.kv.weight, cross.kv.bias))
    embedding = network.token_embedding.weight.detach()
    return Program(
        parts=parts,
        embedding=embedding,
        positions=network.positions.detach(),
        norm=norm(network.norm),
        output=embedding.t().contiguous(),
        read_memory=(
            torch.cat([weight for weight, _ in readers], dim=1).contiguous(),
            torch.cat([bias for _, bias in readers]),
        ),
        norm_memory=False,
        num_heads=config.num_heads,
        places=kept,
    )


def _norm_of(norm: nn.Module) -> Affine:
    return norm.weight.detach(), norm.bias.detach()


def add_noise(
    pooled: Tensor, std: float | Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Unit vectors (B, D) plus normal noise of `std` (a number or (B,)), at unit length again."""
    if not isinstance(std, Tensor):
        if std == 0:
            return pooled
        std = torch.full(pooled.shape[:1], float(std))
    # why: noise comes from the CPU, so that a seed means the same on every device
    noise = torch.randn(pooled.shape, generator=generator).to(pooled)
    return F.normalize(pooled + noise * std.to(pooled)[:, None], dim=-1)


def random_ports(
    batch_size: int,
    grid_drop: float,
    pooled_drop: float,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Which ports a training step opens: grid_open and pooled_open, each (batch_size,) bool.

    A sample closes its grid with chance grid_drop, otherwise its pooled port with chance
    pooled_drop, so that one is always open.
    """
    draws = torch.rand(2, batch_size, generator=generator)
    grid_open = draws[0] >= grid_drop
    return grid_open, (draws[1] >= pooled_drop) | ~grid_open
