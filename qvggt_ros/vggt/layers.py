# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The transformer block that encoder, aggregator and camera head share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from qvggt_ros.vggt.positions import rotate

# Queries, keys and values [N, L, heads, head_width] -> the attended values, same shape.
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
# cos and signed sin, each [T, 1, head_width]: see positions.rope_tables.
RopeTables = tuple[Tensor, Tensor]


def attend_sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend with PyTorch's fused kernel; softmax scale head_width ** -0.5, no mask."""
    out = functional.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    )
    return out.transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention, with optional norm and rotation of queries and keys.

    `attend` may be replaced on an instance: export spells attention as each engine wants it.
    """

    def __init__(self, width: int, heads: int, eps: float, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.attend: Attend = attend_sdpa
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.LayerNorm(width // heads, eps=eps) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(width // heads, eps=eps) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def query_key_value(self, x: Tensor, rope: RopeTables | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return what is attended, each [N, L, heads, head_width], after norm and rotation."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)) for part in self.qkv(x).chunk(3, dim=-1)
        )
        query, key = self.q_norm(query), self.k_norm(key)
        if rope is not None:
            query, key = rotate(query, *rope), rotate(key, *rope)
        return query, key, value

    def forward(self, x: Tensor, rope: RopeTables | None = None) -> Tensor:
        """Attend among the L tokens of x [N, L, width]."""
        return self.proj(self.attend(*self.query_key_value(x, rope)).flatten(-2))


class Mlp(nn.Module):
    """Two linear layers with an exact (erf) GELU between them."""

    def __init__(self, width: int, hidden: int, out_width: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width if out_width is None else out_width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., width] to [..., out_width]."""
        return self.fc2(functional.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch (Touvron et al. 2021)."""

    def __init__(self, width: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), float(init)))

    def forward(self, x: Tensor) -> Tensor:
        """Scale [..., width]."""
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block: x + ls1 attn(norm1 x), then x + ls2 mlp(norm2 x)."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: int,
        eps: float,
        layer_scale_init: float,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, eps=eps, qk_norm=qk_norm)
        self.ls1 = LayerScale(width, layer_scale_init)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, mlp_ratio * width)
        self.ls2 = LayerScale(width, layer_scale_init)

    def forward(self, x: Tensor, rope: RopeTables | None = None) -> Tensor:
        """Map tokens [N, L, width] to [N, L, width]."""
        x = x + self.ls1(self.attn(self.norm1(x), rope))
        return x + self.ls2(self.mlp(self.norm2(x)))
