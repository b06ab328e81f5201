"""Pooled vectors of the common towers without work that cannot reach them.

The same sums as open_clip's own forward pass, equal to it up to float32 rounding, and fewer of
them: in the last block only the pooled token asks and passes through the MLP; a causal text tower
sees no padding, and a beginning that several texts of a batch share is computed once. All linear
maps work on rows (token, width), so that a precision is only another kind of linear map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfm.encoders.rows import Even, Layout, Packed
from mmfm.encoders.towers import OpenClipText
from mmfm.encoders.towers import text_tower as parts_of

Map = Callable[[Tensor], Tensor]  # rows (M, K) -> rows (M, N); or the inputs of a tower -> (B, D)

CACHED_ROWS = 640  # at once on a processor: what one layer hands to the next then stays in caches
QUICK = 1.702  # QuickGELU(x) = x * sigmoid(QUICK * x), 1606.08415
FLOORS = {"GELU": -0.1701, "QuickGELU": -0.1637}  # just below the least value of the function


class MakeMap(Protocol):
    """Makes the map of a weight (N, K) and a bias (N,) or None, followed by the function `then`;
    no input is below `floor`.
    """

    def __call__(
        self, weight: Tensor, bias: Tensor | None, floor: float | None = None,
        then: Map | None = None,
    ) -> Map: ...  # fmt: skip


def dense(
    weight: Tensor, bias: Tensor | None, floor: float | None = None, then: Map | None = None
) -> Map:
    """The linear map in its weight's own type; the weight is shared, not copied."""
    if then is None:
        return lambda rows: F.linear(rows, weight, bias)
    return lambda rows: then(F.linear(rows, weight, bias))


def image_tower(towers: nn.Module, make: MakeMap = dense) -> Map | None:
    """(B, 3, H, W) normalised -> (B, D), not yet of unit length; None for another kind of tower.

    For open_clip's VisionTransformer of plain blocks with class-token or average pooling.
    """
    visual: Any = towers.visual
    if not _is(visual, "VisionTransformer") or not _is_plain(visual.transformer):
        return None
    if visual.attn_pool is not None or visual.pool_type not in ("tok", "avg"):
        return None
    pools = visual.pool_type == "tok"
    patches, blocks = Patches(visual, make), Blocks(visual.transformer, make, make, pools)
    together = max(1, CACHED_ROWS // len(visual.positional_embedding))

    def encode(images: Tensor) -> Tensor:
        if images.device.type == "cpu" and len(images) > together:
            return torch.cat([encode(some) for some in images.split(together)])
        x = patches(images)
        layout, rows = Even(x.shape[1]), x.flatten(0, 1)
        if pools:  # the last norm is a token's own, so it may come after
            first = torch.arange(0, len(rows), layout.length, device=rows.device)
            pooled = visual.ln_post(blocks(rows, layout, first))
        else:
            pooled = visual._pool(layout.grid(blocks(rows, layout)))[0]
        return pooled if visual.proj is None else pooled @ visual.proj

    return encode


def text_tower(
    towers: nn.Module, make: MakeMap = dense, make_out: MakeMap | None = None
) -> Map | None:
    """(B, T) ids -> (B, D), not yet of unit length; None for another kind of tower.

    For open_clip's text transformer of plain blocks: causal ones are packed without padding, those
    with full attention see all T places. make_out: for the attention's last map, if another.
    """
    tower: Any = parts_of(towers)
    if not isinstance(tower, OpenClipText) or not _is_plain(tower.transformer):
        return None
    if tower.class_token is not None or tower.pool not in ("first", "last", "argmax", "eos"):
        return None
    if getattr(getattr(towers, "text", towers), "use_pad_mask", False):
        return None
    if tower.causal_mask is not None and not _is_causal(tower.causal_mask):
        return None
    blocks = Blocks(tower.transformer, make, make_out or make, pools=True)

    def encode(ids: Tensor) -> Tensor:
        places = _pooled_places(tower, ids)
        if tower.causal_mask is None:
            length = ids.shape[1]
            x = tower.token_embedding(ids) + tower.positions[:length]
            starts = torch.arange(0, ids.numel(), length, device=ids.device)
            pooled = blocks(x.flatten(0, 1), Even(length), starts + places)
        else:
            packed = Packed.of(ids, places)
            rows = tower.token_embedding(packed.ids) + tower.positions[packed.positions]
            pooled = blocks(rows, packed, packed.ends)
        return tower.project(tower.norm(pooled))

    return encode


class Patches:
    """Pictures (B, 3, H, W) -> class token and patches (B, L, E), placed and normed."""

    def __init__(self, visual: Any, make: MakeMap) -> None:
        self.visual, self.side = visual, visual.conv1.stride
        self.project = make(visual.conv1.weight.flatten(1), visual.conv1.bias)

    def __call__(self, images: Tensor) -> Tensor:
        visual, (down, across) = self.visual, self.side
        cut = images[..., : images.shape[2] // down * down, : images.shape[3] // across * across]
        grid = cut.unflatten(3, (-1, across)).unflatten(2, (-1, down))  # (B, 3, h, P, w, P)
        rows = grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(0, 2)
        patches = self.project(rows).unflatten(0, (len(images), -1))
        positions = visual.positional_embedding
        x = patches.new_empty(len(images), len(positions), positions.shape[1])
        x[:, 0] = visual.class_embedding + positions[0]
        torch.add(patches, positions[1:], out=x[:, 1:])
        return visual.ln_pre(x)


class Blocks:
    """The blocks of a pre-norm transformer over rows; the last for one row of each sequence only,
    where `pools`.
    """

    def __init__(self, transformer: Any, make: MakeMap, make_out: MakeMap, pools: bool) -> None:
        *before, last = transformer.resblocks
        self.before = [Block(block, make, make_out) for block in before]
        self.last = (PooledBlock if pools else Block)(last, make, make_out)

    def __call__(self, rows: Tensor, layout: Layout, pooled: Tensor | None = None) -> Tensor:
        """rows (M, E) -> (M, E); where it pools, with pooled (B,), a row each -> (B, E)."""
        for block in self.before:
            rows = block(rows, layout)
        return self.last(rows, layout, pooled)


class Block:
    """One block: x + attention(norm(x)), then x + MLP(norm(x)), with open_clip's own norms."""

    def __init__(self, block: Any, make: MakeMap, make_out: MakeMap) -> None:
        self.heads, mlp = block.attn.num_heads, block.mlp
        self.ln_1, self.ln_2 = block.ln_1, block.ln_2
        self._project(block.attn.in_proj_weight, block.attn.in_proj_bias, make)
        self.out = make_out(*_scaled(block.attn.out_proj, block.ls_1))
        self.up = make(mlp.c_fc.weight, mlp.c_fc.bias, then=_activation(mlp.gelu))
        floor = FLOORS.get(type(mlp.gelu).__name__)
        self.down = make(*_scaled(mlp.c_proj, block.ls_2), floor)

    def _project(self, weight: Tensor, bias: Tensor, make: MakeMap) -> None:
        self.qkv = make(weight, bias)

    def __call__(self, rows: Tensor, layout: Layout, pooled: Tensor | None = None) -> Tensor:
        grid = layout.grid(self.qkv(self.ln_1(rows))).unflatten(2, (3, self.heads, -1))
        query, key, value = grid.permute(2, 0, 3, 1, 4)  # each (B, heads, L, width of a head)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=layout.causal)
        return self._add(rows, layout.rows(seen.transpose(1, 2).flatten(2)))

    def _add(self, rows: Tensor, seen: Tensor) -> Tensor:
        rows = rows + self.out(seen)
        return rows + self.down(self.up(self.ln_2(rows)))


class PooledBlock(Block):
    """A block of which one row of each sequence is wanted: only that one asks and goes on."""

    def _project(self, weight: Tensor, bias: Tensor, make: MakeMap) -> None:
        width = weight.shape[1]
        self.query = make(weight[:width], bias[:width])
        self.key_value = make(weight[width:], bias[width:])

    def __call__(self, rows: Tensor, layout: Layout, pooled: Tensor | None = None) -> Tensor:
        normed = self.ln_1(rows)
        query = self.query(normed[pooled]).unflatten(1, (self.heads, 1, -1))
        grid = layout.grid(self.key_value(normed)).unflatten(2, (2, self.heads, -1))
        key, value = grid.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=layout.seen())
        return self._add(rows[pooled], seen.flatten(1))


def _is(module: nn.Module, name: str) -> bool:
    """Whether it is open_clip's own class of that name, which only the backbone's file imports."""
    kind = type(module)
    return kind.__name__ == name and kind.__module__.startswith("open_clip.")


def _is_plain(transformer: Any) -> bool:
    """Blocks as CLIP has them: fused projections with biases, nothing normed or scaled inside."""
    return len(transformer.resblocks) > 0 and all(
        _is(block, "ResidualAttentionBlock")
        and not hasattr(block, "ln_1_kv")
        and block.attn.in_proj_weight is not None
        and block.attn.in_proj_bias is not None
        and block.attn.bias_k is None
        and not block.attn.add_zero_attn
        for block in transformer.resblocks
    )


def _is_causal(mask: Tensor) -> bool:
    wanted = torch.full_like(mask, float("-inf")).triu_(1)
    return torch.equal(mask, wanted)


def _pooled_places(tower: OpenClipText, ids: Tensor) -> Tensor:
    """(B,): the place of each text that open_clip's `text_global_pool` takes."""
    if tower.pool in ("argmax", "eos"):
        return tower.ends(ids)
    return torch.full_like(ids[:, 0], 0 if tower.pool == "first" else ids.shape[1] - 1)


def _scaled(linear: nn.Linear, scale: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The map with the LayerScale that follows it, if one does."""
    if isinstance(scale, nn.Identity):
        return linear.weight, linear.bias
    gamma: Any = scale.gamma
    bias = None if linear.bias is None else gamma * linear.bias
    return gamma[:, None] * linear.weight, bias


def _activation(module: nn.Module) -> Map:
    """The activation, in place where open_clip's own would make three copies."""
    if type(module).__name__ == "QuickGELU":
        return lambda x: F.silu(x.mul_(QUICK), inplace=True).mul_(1 / QUICK)
    return module
