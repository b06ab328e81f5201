"""Contrastive losses between pictures and texts, exact and tiled, that know of twins and of ranks.

The B x B logits never exist: they are made tile by tile, used and forgotten, and made again for
the gradient, so that peak memory is O(tile + B D) and not O(B^2) (Inf-CL, 2410.17243). Between
ranks go features of texts and one number per text; a rank makes the logits of its own pictures
with all texts, so that every logit is made once.

Pictures and texts of one group (the same name) are not pushed apart. In a corpus that draws every
concept in several styles, a batch holds such pairs all the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import Function, once_differentiable
from torch.nn import functional as F

from mmfm.errors import InputError

TILE = {"cpu": 1024}  # rows and columns of a tile: three tiles fit the last cache
TILE_ELSEWHERE = 4096  # fills a GPU


def softmax_loss(
    images: Tensor, texts: Tensor, scale: Tensor, groups: Tensor | None = None,
    *, group: dist.ProcessGroup | None = None,
) -> Tensor:  # fmt: skip
    """Symmetric InfoNCE (CLIP, 2103.00020); images, texts (B, D) unit length -> scalar.

    groups: (B,) ids; off-diagonal pairs of one id are left out of the denominators. None: all
    differ. group: the ranks that hold the other parts of the batch, of equal size, in rank order.
    Every rank then returns the loss of the whole batch, and gradients of which the *mean* over the
    ranks, which DDP takes, is the gradient of that loss. 16-bit features are computed in float32.
    Raises InputError when the sizes do not fit.
    """
    images, texts, scale = _prepared(images, texts, groups, scale)
    return _Softmax.apply(images, texts, scale, groups, _Ranks(group, images))


def sigmoid_loss(
    images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, groups: Tensor | None = None,
    *, group: dist.ProcessGroup | None = None,
) -> Tensor:  # fmt: skip
    """Pairwise sigmoid loss (SigLIP, 2303.15343), the sum over all pairs divided by B -> scalar.

    Like `softmax_loss`, but pairs of one id in `groups` count as positive.
    """
    images, texts, scale, bias = _prepared(images, texts, groups, scale, bias)
    ranks, wanted = _Ranks(group, images), torch.is_grad_enabled()
    return _Sigmoid.apply(images, texts, scale, bias, groups, ranks, wanted)


def _prepared(images: Tensor, texts: Tensor, groups: Tensor | None, *scalars: Tensor) -> list:
    if images.dim() != 2 or images.shape != texts.shape or len(images) == 0:
        raise InputError(
            f"images {tuple(images.shape)} and texts {tuple(texts.shape)} must both be (B, D), B "
            "at least 1: one text to each image"
        )
    if groups is not None and groups.shape != images.shape[:1]:
        raise InputError(f"groups {tuple(groups.shape)}, wanted one id for each of {len(images)}")
    # why not half precision: a sum of thousands of exponentials
    exact = torch.float64 if images.dtype == torch.float64 else torch.float32
    features = [x.to(exact).contiguous() for x in (images, texts)]
    return [*features, *(x.to(images.device, exact).reshape(()) for x in scalars)]


class _Ranks:
    """The processes that share a batch, or this one alone."""

    def __init__(self, group: dist.ProcessGroup | None, images: Tensor) -> None:
        self.group = group
        self.count = 1 if group is None else dist.get_world_size(group)
        self.first = 0  # of the batch's rows, this rank's first
        if self.count > 1:
            self.first = dist.get_rank(group) * len(images)
            sizes = self.gather(torch.tensor([len(images)], device=images.device)).tolist()
            if len(set(sizes)) > 1:
                raise InputError(f"ranks hold {sizes} samples; give every rank equally many")

    def gather(self, x: Tensor) -> Tensor:
        """(b, ...) of every rank, in rank order -> (B, ...)."""
        if self.count == 1:
            return x
        whole = x.new_empty(self.count * len(x), *x.shape[1:])
        dist.all_gather_into_tensor(whole, x, group=self.group)
        return whole

    def reduce(self, x: Tensor, how: Any = dist.ReduceOp.SUM) -> Tensor:
        """The sum (or other reduction) over the ranks, on every rank; in place."""
        if self.count > 1:
            dist.all_reduce(x, how, group=self.group)
        return x

    def scatter(self, x: Tensor) -> Tensor:
        """(B, ...) of every rank -> (b, ...): this rank's rows, summed over the ranks."""
        if self.count == 1:
            return x
        own = x.new_empty(len(x) // self.count, *x.shape[1:])
        dist.reduce_scatter_tensor(own, x, group=self.group)
        return own


class _Logits:
    """scale * images @ texts.T of b images and B texts, a tile at a time, always in one place."""

    def __init__(
        self, images: Tensor, texts: Tensor, scale: Tensor, groups: Tensor | None, first: int
    ) -> None:
        self.images, self.texts, self.scale, self.groups = images, texts, scale, groups
        self.first = first  # column of the first image's own text
        side = TILE.get(images.device.type, TILE_ELSEWHERE)
        self.rows, self.columns = _slices(len(images), side), _slices(len(texts), side)
        # why buffers: on a CPU, fresh memory costs as much as the arithmetic on it
        size = min(side, len(images)) * min(side, len(texts))
        self._tile, self._scratch = images.new_empty(2, size)

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
        """Rows, columns, the scaled images of the rows, and the tile, which may be changed."""
        for rows in self.rows:
            strip = self.images[rows] * self.scale
            for columns in self.columns:
                texts = self.texts[columns]
                tile = self._tile[: len(strip) * len(texts)].view(len(strip), len(texts))
                yield rows, columns, strip, torch.mm(strip, texts.T, out=tile)

    def scratch(self, tile: Tensor) -> Tensor:
        """Room for one more tile of that shape, the same each time."""
        return self._scratch[: tile.numel()].view_as(tile)

    def pairs(self, tile: Tensor, rows: slice, columns: slice) -> Tensor:
        """View of a tile's entries whose image and text belong together; often there are none."""
        return tile.diagonal(self.first + rows.start - columns.start)

    def leave_out_twins(self, tile: Tensor, rows: slice, columns: slice) -> None:
        """Minus infinity for pairs of one group that do not belong together."""
        if self.groups is not None:
            twins = _same(self.groups, self.first, rows, columns)
            self.pairs(twins, rows, columns).fill_(False)
            tile.masked_fill_(twins, float("-inf"))

    def turn_positives(self, tile: Tensor, rows: slice, columns: slice) -> None:
        """Change the sign of pairs that belong together or are of one group."""
        if self.groups is None:
            self.pairs(tile, rows, columns).neg_()
        else:
            same = _same(self.groups, self.first, rows, columns)
            tile.mul_(same.to(tile.dtype).mul_(-2).add_(1))

    def log_sum_exp(self, tile: Tensor, dim: int) -> Tensor:
        """Minus infinity where a whole line is left out."""
        high = tile.amax(dim, keepdim=True).clamp_(min=torch.finfo(tile.dtype).min)
        powers = torch.sub(tile, high, out=self.scratch(tile)).exp_()
        return powers.sum(dim).log_().add_(high.squeeze(dim))


class _Softmax(Function):
    """Forward: log-sum-exp of rows and columns. Backward: the same tiles again, two products."""

    @staticmethod
    def forward(ctx, images, texts, scale, groups, ranks):
        everyone = ranks.gather(texts)
        groups = None if groups is None else ranks.gather(groups)
        logits = _Logits(images, everyone, scale, groups, ranks.first)
        by_row = images.new_full((len(images),), float("-inf"))
        by_column = images.new_full((len(everyone),), float("-inf"))
        positive = images.new_zeros(())
        for rows, columns, _, tile in logits:
            positive += logits.pairs(tile, rows, columns).sum()
            logits.leave_out_twins(tile, rows, columns)
            for total, dim in ((by_row[rows], 1), (by_column[columns], 0)):
                torch.logaddexp(total, logits.log_sum_exp(tile, dim), out=total)
        if ranks.count > 1:
            high = ranks.reduce(by_column.clone(), dist.ReduceOp.MAX)
            by_column = ranks.reduce((by_column - high).exp_()).log_() + high
        ctx.save_for_backward(images, everyone, scale, groups, by_row, by_column)
        ctx.ranks = ranks
        own = by_column[ranks.first : ranks.first + len(images)]
        return ranks.reduce(by_row.sum() + own.sum() - 2 * positive) / (2 * len(everyone))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        images, texts, scale, groups, by_row, by_column = ctx.saved_tensors
        logits = _Logits(images, texts, scale, groups, ctx.ranks.first)
        found = _Gradients(logits, ctx.needs_input_grad)
        for rows, columns, strip, tile in logits:
            logits.leave_out_twins(tile, rows, columns)
            down = torch.sub(tile, by_column[columns], out=logits.scratch(tile)).exp_()
            tile.sub_(by_row[rows, None]).exp_().add_(down)
            logits.pairs(tile, rows, columns).sub_(2)
            found.add(rows, columns, strip, tile)
        share = gradient / (2 * len(texts))
        return *found.finish(ctx.ranks, share), None, None


class _Sigmoid(Function):
    """No logit's gradient needs another logit, so that one pass gives loss and gradient."""

    @staticmethod
    def forward(ctx, images, texts, scale, bias, groups, ranks, wanted):
        everyone = ranks.gather(texts)
        groups = None if groups is None else ranks.gather(groups)
        logits = _Logits(images, everyone, scale, groups, ranks.first)
        found = _Gradients(logits, ctx.needs_input_grad) if wanted else None
        loss, to_bias = images.new_zeros(2, len(images))
        for rows, columns, strip, tile in logits:
            tile += bias
            logits.turn_positives(tile, rows, columns)
            loss[rows] += F.softplus(tile).sum(dim=1)
            if found is not None:
                logits.turn_positives(tile.sigmoid_(), rows, columns)
                to_bias[rows] += tile.sum(dim=1)
                found.add(rows, columns, strip, tile)
        if found is not None:
            share = images.new_tensor(1 / len(everyone))
            ctx.save_for_backward(*found.finish(ranks, share), ranks.reduce(to_bias.sum()) * share)
        return ranks.reduce(loss.sum()) / len(everyone)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return *(None if x is None else gradient * x for x in ctx.saved_tensors), None, None, None


class _Gradients:
    """What tiles of the logits' gradient add up to, for images, texts and scale."""

    def __init__(self, logits: _Logits, needed: tuple[bool, ...]) -> None:
        self.logits = logits
        self.needed = needed[:3]
        # the scale's gradient comes out of that of the images
        self.images = torch.zeros_like(logits.images) if needed[0] or needed[2] else None
        self.texts = torch.zeros_like(logits.texts) if needed[1] else None

    def add(self, rows: slice, columns: slice, strip: Tensor, tile: Tensor) -> None:
        if self.images is not None:
            self.images[rows].addmm_(tile, self.logits.texts[columns])
        if self.texts is not None:
            self.texts[columns].addmm_(tile.T, strip)

    def finish(self, ranks: _Ranks, share: Tensor) -> list[Tensor | None]:
        """Gradients of images, texts (this rank's, times the number of ranks) and scale."""
        logits, to_scale = self.logits, None
        if self.images is not None:
            sums = [(logits.images[rows] * self.images[rows]).sum() for rows in logits.rows]
            to_scale = ranks.reduce(torch.stack(sums).sum()) * share
            self.images *= logits.scale * share * ranks.count
        if self.texts is not None:
            self.texts = ranks.scatter(self.texts.mul_(share * ranks.count))
        found = (self.images, self.texts, to_scale)
        return [x if need else None for x, need in zip(found, self.needed, strict=True)]


def _same(groups: Tensor, first: int, rows: slice, columns: slice) -> Tensor:
    """Mask of a tile: True where image and text are of one group."""
    return groups[first + rows.start : first + rows.stop, None] == groups[columns]


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
