"""The flow network: a convolution-attention hybrid that predicts the clean map.

A small U-shaped network over a (C, h, w) map, the same for every space: convolutions where the
map is fine, attention to itself and to the text where it is coarse. Where compute is small the
convolutions learn surfaces long before a plain transformer does (docs/experiments.md).

It reads its condition through two doors: a context sequence (text tokens, then a few tokens made
from a pooled vector) by cross-attention, and time plus the pooled vector by modulation.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfm.config import DecoderConfig
from mmfm.decoder.flow import clean
from mmfm.layers.blocks import ConvBlock, MapAttention, TransformerBlock
from mmfm.layers.positions import embed_time, sincos_1d, sincos_2d
from mmfm.layers.winograd import Conv3x3
from mmfm.shapes import Embeddings

_VECTOR = 16  # numbers that a processor takes at once
_NEARNESS = 30.0  # a word half a side off counts exp(-7.5) of one that is here, before attention


@dataclass(frozen=True)
class Condition:
    """What the network is told: computed once for a batch, used at every step.

    context: (B, M, W); mask: (B, M) True = may be read; vector: (B, W). places: (B, M, 2), where
    a text reader has put each word, (x, y) in parts of the side, NaN for what has no place.
    memories: of `FlowNetwork.remember`, keys and values of the context for each attention layer.
    """

    context: Tensor
    mask: Tensor
    vector: Tensor
    places: Tensor | None = None
    memories: tuple[tuple[Tensor, Tensor], ...] | None = None
    _scores: dict[tuple[int, int], Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def stack(cls, conditions: list[Condition]) -> Condition:
        """Several conditions as one batch, for guidance in a single pass."""
        longest = max(c.context.shape[1] for c in conditions)
        contexts, masks, places = [], [], []
        for c in conditions:
            extra = longest - c.context.shape[1]
            contexts.append(F.pad(c.context, (0, 0, 0, extra)))
            masks.append(F.pad(c.mask, (0, extra)))
            if c.places is not None:
                places.append(F.pad(c.places, (0, 0, 0, extra), value=torch.nan))
        vectors = torch.cat([c.vector for c in conditions])
        where = torch.cat(places) if places else None  # all have places or none
        return cls(torch.cat(contexts), torch.cat(masks), vectors, where)

    def scores(self, height: int, width: int) -> Tensor:
        """(B, N or 1, M), added to the scores with which the N places of a map read the context.

        -inf where nothing may be read; a word that has a place counts less the farther it is from
        the one that reads, measured from the nearest word. Computed once for each size of map.
        """
        size = (height, width)
        if size not in self._scores:
            scores = self.context.new_zeros(self.mask.shape).masked_fill(~self.mask, -torch.inf)
            scores = scores[:, None]
            if self.places is not None:
                scores = scores - _NEARNESS * self._farther(self.places.float(), height, width).to(
                    scores
                )
            self._scores[size] = scores
        return self._scores[size]

    def _farther(self, places: Tensor, height: int, width: int) -> Tensor:
        """(B, N, M) squares of distances beyond that of the nearest word; 0 without a place."""
        rows, columns = ((torch.arange(n, device=places.device) + 0.5) / n for n in (height, width))
        x = columns.repeat(height)[:, None] - places[:, None, :, 0]
        y = rows.repeat_interleave(width)[:, None] - places[:, None, :, 1]
        apart = x.square() + y.square()
        placed = self.mask[:, None] & ~places[:, None, :, 0].isnan()
        nearest = apart.masked_fill(~placed, torch.inf).amin(dim=2, keepdim=True)
        return torch.where(placed, apart, nearest).sub(nearest).nan_to_num(0.0)


class TextReader(nn.Module):
    """Text tokens (B, L, width) that have read each other in both directions; mask (B, L).

    A CLIP text tower is causal and learns from its last token alone, so that in "a dog left of a
    cat" the dog's token cannot know which side is its own. Fresh blocks change nothing.
    """

    def __init__(self, width: int, depth: int, num_heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(width, num_heads) for _ in range(depth))
        for block in self.blocks:
            for layer in (block.attention.out, block.mlp.fc2):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
        # (x, y) of what a token names, in parts of the picture's side (training/places.py): its
        # place on the map reads it before others. All start in the middle, which changes nothing.
        self.places = nn.Linear(width, 2)
        nn.init.zeros_(self.places.weight)
        nn.init.constant_(self.places.bias, 0.5)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        positions = sincos_1d(places, tokens.shape[2]).to(tokens)
        read = tokens + positions
        for block in self.blocks:
            read = block(read, mask)
        return read - positions  # only what the blocks added stays


class Conditioner(nn.Module):
    """Embeddings -> Condition, with a port for the text tokens and one for the pooled vector.

    Each port may be closed per sample; a closed port is replaced by nothing in the context and
    by a learned vector in the modulation, so that one network serves every mixture.
    """

    def __init__(self, config: DecoderConfig, width: int) -> None:
        super().__init__()
        self.num_pooled_tokens = config.num_pooled_tokens
        self.reader = None
        if config.text_depth:
            heads = config.text_width // config.head_width
            self.reader = TextReader(config.text_width, config.text_depth, heads)
        self.text = nn.Sequential(
            nn.LayerNorm(config.text_width), nn.Linear(config.text_width, width)
        )
        self.pooled = nn.Linear(config.pooled_width, config.num_pooled_tokens * width)
        self.text_vector = nn.Linear(width, width)  # of the mean text token
        self.pooled_vector = nn.Linear(config.pooled_width, width)
        self.kinds = nn.Parameter(torch.randn(3, width) * 0.02)  # text, pooled, nothing
        self.no_pooled = nn.Parameter(torch.zeros(width))

    def forward(
        self,
        embeddings: Embeddings,
        text_open: Tensor | None = None,
        pooled_open: Tensor | None = None,
    ) -> Condition:
        """`text_open`, `pooled_open`: (B,) bool, None = all open (text only if tokens are given).

        pooled is unit length; it is scaled to unit variance before its projections.
        """
        pooled = embeddings.pooled * embeddings.pooled.shape[1] ** 0.5
        batch, device = pooled.shape[0], pooled.device
        if pooled_open is None:
            pooled_open = torch.ones(batch, dtype=torch.bool, device=device)
        places = None
        tokens = self.pooled(pooled).unflatten(1, (self.num_pooled_tokens, -1)) + self.kinds[1]
        nothing = self.kinds[2].expand(batch, 1, -1)  # always readable: no row is ever empty
        parts = [nothing, tokens]
        masks = [
            torch.ones(batch, 1, dtype=torch.bool, device=device),
            pooled_open[:, None].expand(-1, self.num_pooled_tokens),
        ]
        vector = torch.where(pooled_open[:, None], self.pooled_vector(pooled), self.no_pooled)
        if embeddings.tokens is not None:
            said, mask = embeddings.tokens, embeddings.mask
            if mask is None:
                mask = torch.ones(said.shape[:2], dtype=torch.bool, device=device)
            if self.reader is not None:
                said = self.reader(said, mask)
                places = self.reader.places(said)
            text = self.text(said) + self.kinds[0]
            if text_open is not None:
                mask = mask & text_open[:, None]
            parts.append(text)
            masks.append(mask)
            count = mask.sum(dim=1, keepdim=True)
            mean = (text * mask[..., None]).sum(dim=1) / count.clamp(min=1)
            vector = vector + self.text_vector(mean) * (count > 0)
        context, mask = torch.cat(parts, dim=1), torch.cat(masks, dim=1)
        # why: torch's fused attention takes 2.5 times as long on a processor when the length of the
        # memory is no multiple of its vectors; what is added here is never read
        spare = -context.shape[1] % _VECTOR
        if self.reader is not None:
            # nothing, the pooled tokens and what is spare have no place
            before = 1 + self.num_pooled_tokens
            places = context.new_zeros(batch, 0, 2) if places is None else places
            after = context.shape[1] + spare - before - places.shape[1]
            places = F.pad(places, (0, 0, before, after), value=torch.nan)
        return Condition(F.pad(context, (0, 0, 0, spare)), F.pad(mask, (0, spare)), vector, places)


class FlowNetwork(nn.Module):
    """x_t (B, C, h, w), t (B,) in [0, 1], Condition -> the predicted clean map (B, C, h, w).

    h and w are those of the config, or others: multiples of 2^(levels - 1).
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.width = widths[-1]  # of the condition
        self.conditioner = Conditioner(config, self.width)
        self.time = nn.Sequential(
            nn.Linear(self.width, self.width), nn.SiLU(), nn.Linear(self.width, self.width)
        )
        self.stem = Conv3x3(config.channels, widths[0])
        positions = sincos_2d(config.map_size, widths[0])
        self.register_buffer(
            "positions", positions.T.unflatten(1, (config.map_size, -1)), persistent=False
        )
        self.down = nn.ModuleList(self._level(i) for i in range(len(widths)))
        self.up = nn.ModuleList(self._level(i) for i in range(len(widths)))
        self.shrink = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(widths)
        )
        self.grow = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in itertools.pairwise(widths))
        self.join = nn.ModuleList(nn.Conv2d(2 * w, w, 1) for w in widths[:-1])
        self.norm = nn.GroupNorm(max(1, widths[0] // 16), widths[0])
        self.out = Conv3x3(widths[0], config.channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def _level(self, i: int) -> nn.ModuleList:
        config = self.config
        layers: list[nn.Module] = []
        for _ in range(config.depths[i]):
            layers.append(ConvBlock(config.widths[i], self.width))
            if config.attention[i]:
                layers.append(MapAttention(config.widths[i], self.width, config.head_width))
        return nn.ModuleList(layers)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        time = embed_time(t, self.width).to(x_t.dtype)  # no change but in half precision
        signal = F.silu(self.time(time) + condition.vector)
        x = self.stem(x_t) + self._positions_of(x_t)
        skips = []
        read = iter(condition.memories or itertools.repeat(None))  # in the order of _levels
        for i, level in enumerate(self.down):
            x = self._run(level, x, signal, condition, read)
            if i < len(self.shrink):
                skips.append(x)
                x = self.shrink[i](x)
        x = self._run(self.up[-1], x, signal, condition, read)
        for i in reversed(range(len(self.grow))):
            x = F.pixel_shuffle(self.grow[i](x), 2)
            x = self.join[i](torch.cat([x, skips[i]], dim=1))
            x = self._run(self.up[i], x, signal, condition, read)
        x = self.out(F.silu(self.norm(x)))
        return x if self.config.prediction == "x" else clean(x, x_t, t)

    def remember(self, condition: Condition) -> Condition:
        """The same condition with what every attention layer makes of its context, so that a
        sampler computes it once and not at every step.
        """
        memories = tuple(
            layer.cross.remember(condition.context)
            for level in self._levels()
            for layer in level
            if isinstance(layer, MapAttention)
        )
        return replace(condition, memories=memories)

    def _levels(self) -> list[nn.ModuleList]:
        """In the order in which they run."""
        return [*self.down, *reversed(self.up)]

    def _positions_of(self, x: Tensor) -> Tensor:
        """(C, h, w): kept for the map that was trained on, computed for another."""
        height, width = x.shape[2:]
        if self.positions.shape[1:] == x.shape[2:]:
            return self.positions
        positions = sincos_2d(height, self.config.widths[0], width).to(self.positions)
        return positions.T.unflatten(1, (height, width))

    @staticmethod
    def _run(
        level: nn.ModuleList, x: Tensor, signal: Tensor, condition: Condition, memories: Iterator
    ) -> Tensor:
        for layer in level:
            if isinstance(layer, ConvBlock):
                x = layer(x, signal)
            else:
                x = layer(x, condition.context, condition.scores(*x.shape[2:]), next(memories))
        return x
