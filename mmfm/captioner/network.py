"""The caption network: a causal transformer that reads an image through two ports.

The grid port takes the tower's image tokens, the pooled port one vector; either may be closed, for
a whole batch or for single samples, so that one network captions pictures, stored vectors and
averages.
Training adds noise to the pooled port, which lets it read text-side vectors too (CapDec,
arXiv:2211.00575). Sequences are: start, prompt tokens, text tokens, end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfm.config import CaptionerConfig
from mmfm.errors import InputError
from mmfm.layers.blocks import MLP
from mmfm.shapes import Embeddings, expect_shape


@dataclass
class Cache:
    """Keys and values of one decoding run; `length` tokens have been read so far.

    self_kv: per block, (2, B, A, max_tokens, K), preallocated. cross_kv: per block, two
    (B, A, M, K), computed once. memory_mask: (B, M), True = may be read.
    """

    self_kv: list[Tensor]
    cross_kv: list[tuple[Tensor, Tensor]]
    memory_mask: Tensor
    length: int = 0

    def reorder(self, rows: Tensor) -> None:
        """Row i continues what row `rows[i]` had read; both must look at the same image (beams)."""
        self.self_kv = [kv.index_select(1, rows) for kv in self.self_kv]


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
        """Attention of (B, A, L, K) heads, merged and projected to (B, L, E)."""
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
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
        self_kv: Tensor | None = None,
        length: int = 0,
    ) -> Tensor:
        """x: (B, T, E), the tokens after the `length` that `self_kv` already holds."""
        attention = self.self_attention
        q, k, v = (attention.split(y) for y in attention.qkv(self.norm_self(x)).chunk(3, dim=-1))
        if self_kv is not None:
            end = length + x.shape[1]
            self_kv[0, :, :, length:end] = k
            self_kv[1, :, :, length:end] = v
            k, v = self_kv[0, :, :, :end], self_kv[1, :, :, :end]
        # why: one new token sees every earlier one, so only a longer run needs the causal mask
        x = x + attention.attend(q, k, v, None, causal=x.shape[1] > 1)
        attention = self.cross_attention
        q = attention.split(attention.q(self.norm_cross(x)))
        x = x + attention.attend(q, *cross_kv, memory_mask[:, None, None, :], causal=False)
        return x + self.mlp(self.norm_mlp(x))


class Captioner(nn.Module):
    """Writes text about an image: `loss` trains it, `start` and `step` decode with it."""

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
        self.init_weights()

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
        x = self.embed(token_ids, 0)
        for block in self.blocks:
            x = block(x, block.read_memory(memory), memory_mask)
        return self.norm(x)

    def embed(self, token_ids: Tensor, first: int) -> Tensor:
        """Token and position embeddings (B, T, E) of tokens that begin at position `first`."""
        end = first + token_ids.shape[1]
        if end > self.config.max_tokens:
            raise InputError(
                f"a sequence of {end} tokens is too long, the caption head takes at most "
                f"{self.config.max_tokens}; shorten the text or the prompt"
            )
        return self.token_embedding(token_ids) + self.positions[first:end]

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

    def start(self, memory: Tensor, memory_mask: Tensor) -> Cache:
        """An empty cache for decoding from this memory (B, M, E)."""
        expect_shape(memory, f"B M {self.config.width}", "memory")
        heads = self.config.num_heads
        cross = [block.read_memory(memory) for block in self.blocks]
        shape = (2, len(memory), heads, self.config.max_tokens, self.config.width // heads)
        return Cache([k.new_zeros(shape) for k, _ in cross], cross, memory_mask)

    def step(self, token_ids: Tensor, cache: Cache) -> Tensor:
        """Read token_ids (B, T) after what the cache holds; logits (B, V) of the next token.

        T is 1, or, into an empty cache, the length of the whole prompt.
        """
        if cache.length and token_ids.shape[1] != 1:
            raise ValueError(f"got {token_ids.shape[1]} tokens, a filled cache takes one at a time")
        x = self.embed(token_ids, cache.length)
        for block, cross_kv, self_kv in zip(
            self.blocks, cache.cross_kv, cache.self_kv, strict=True
        ):
            x = block(x, cross_kv, cache.memory_mask, self_kv, cache.length)
        cache.length += token_ids.shape[1]
        return self.logits(self.norm(x[:, -1]))


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
