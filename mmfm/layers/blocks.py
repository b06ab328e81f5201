"""Residual blocks: a transformer block for tokens, a conditioned convolution block for maps."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from mmfm.layers.attention import CrossAttention, SelfAttention
from mmfm.layers.patches import map_to_tokens
from mmfm.layers.winograd import Conv3x3


class MLP(nn.Module):
    """Two linear layers with a GELU between: (..., width) -> (..., width)."""

    def __init__(self, width: int, ratio: float = 4.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, int(width * ratio))
        self.fc2 = nn.Linear(int(width * ratio), width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and MLP on (B, L, width); mask (B, L) True = may be read."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class ConvBlock(nn.Module):
    """Two 3x3 convolutions with a residual, modulated by a condition vector (ADM, 2105.05233).

    x (B, width, h, w), condition (B, condition_width) -> (B, width, h, w). The last convolution
    starts at zero, so that a fresh block is the identity.
    """

    def __init__(self, width: int, condition_width: int) -> None:
        super().__init__()
        groups = max(1, width // 16)
        self.norm1 = nn.GroupNorm(groups, width)
        self.conv1 = Conv3x3(width, width)
        self.modulation = nn.Linear(condition_width, 2 * width)
        self.norm2 = nn.GroupNorm(groups, width)
        self.conv2 = Conv3x3(width, width)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return x + self.conv2(F.silu(h))


class MapAttention(nn.Module):
    """A map attends to itself and to a context, then an MLP: residual, on (B, width, h, w).

    context (B, M, context_width), mask as CrossAttention reads it. Positions need no embedding
    here: the convolutions before it, with their zero padding, have told them apart.
    """

    def __init__(self, width: int, context_width: int, head_width: int) -> None:
        super().__init__()
        heads = width // head_width
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.cross = CrossAttention(width, context_width, heads)
        self.norm3 = nn.LayerNorm(width)
        self.mlp = MLP(width, ratio=2.0)
        for layer in (self.attention.out, self.cross.out, self.mlp.fc2):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, x: Tensor, context: Tensor, mask: Tensor,
        memory: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """memory: `cross.remember(context)` where it is known already."""
        tokens = map_to_tokens(x)
        tokens = tokens + self.attention(self.norm1(tokens))
        k, v = self.cross.remember(context) if memory is None else memory
        tokens = tokens + self.cross.read(self.norm2(tokens), k, v, mask)
        tokens = tokens + self.mlp(self.norm3(tokens))
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])
