# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Position tables: rotary (aggregator), learned (encoder) and sine/cosine (dense heads).

The parameter-free tables are computed once per grid and device, so that an exported graph holds
them as constants and no operation depends on data. Export must meet them already made (one eager
call before it), because a table made while tracing would be a symbolic one.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

# Sine/cosine table of the dense heads: base of its frequencies, and its weight in the features.
SINE_BASE = 100.0
SINE_WEIGHT = 0.1


@lru_cache(maxsize=64)
def rope_tables(
    grid: tuple[int, int],
    special_tokens: int,
    head_width: int,
    base: float,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Return cos and signed sin of the two-axis rotary embedding, each [T, 1, head_width].

    The first half of a head turns with the row, the second with the column (Su et al. 2021,
    eq. 34, once per axis); inside a half, channel j and j + head_width/4 form a pair. Patches sit
    at (row + 1, column + 1), the special tokens before them at (0, 0), which is no rotation. The
    sine is negated where the pair's first channel takes it, so that `rotate` needs no negation.
    """
    rows, columns = grid
    quarter = head_width // 4
    # A table made under inference mode could not be used in training later.
    with torch.inference_mode(False), torch.no_grad():
        frequency = base ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
        row = torch.arange(1, rows + 1, dtype=torch.float64).repeat_interleave(columns)
        column = torch.arange(1, columns + 1, dtype=torch.float64).repeat(rows)
        at_origin = torch.zeros(special_tokens, dtype=torch.float64)
        row_angle = torch.cat([at_origin, row])[:, None] * frequency
        column_angle = torch.cat([at_origin, column])[:, None] * frequency
        angle = torch.cat([row_angle, row_angle, column_angle, column_angle], dim=1)
        sign = torch.ones(head_width, dtype=torch.float64)
        sign[:quarter] = -1
        sign[2 * quarter : 3 * quarter] = -1
        cos, signed_sin = angle.cos(), angle.sin() * sign
        return (
            cos[:, None].to(device=device, dtype=dtype),
            signed_sin[:, None].to(device=device, dtype=dtype),
        )


def rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Turn queries or keys [N, F*T, heads, head_width] by the tables of T tokens, F times."""
    tokens = cos.shape[0]
    framed = x.unflatten(1, (-1, tokens))
    row_a, row_b, column_a, column_b = framed.chunk(4, dim=-1)
    partner = torch.cat([row_b, row_a, column_b, column_a], dim=-1)
    return (framed * cos + partner * signed_sin).flatten(1, 2).to(x.dtype)


def resize_learned(table: Tensor, stored: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Resize a learned table [1, rows*columns, D] from one patch grid to another.

    Bicubic with anti-aliasing, as the published weights were trained; differentiable, and the
    table itself where the grids are equal.
    """
    if stored == grid:
        return table
    image = table.unflatten(1, stored).permute(0, 3, 1, 2)
    exact = image if image.dtype == torch.float64 else image.float()
    resized = functional.interpolate(
        exact, size=grid, mode='bicubic', antialias=True, align_corners=False
    )
    return resized.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)


@lru_cache(maxsize=64)
def sine_table(
    channels: int, size: tuple[int, int], aspect: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return the dense heads' additive table [1, channels, rows, columns].

    Args:
        channels: a multiple of 4: sin x, cos x, sin y, cos y, a quarter each.
        size: rows and columns of the feature map.
        aspect: the image's width over its height; positions are scaled to a unit diagonal.
        dtype: result's type; the angles are computed in float64.
        device: where the result lives.

    """
    rows, columns = size
    quarter = channels // 4
    diagonal = (aspect**2 + 1) ** 0.5
    with torch.inference_mode(False), torch.no_grad():
        frequency = SINE_BASE ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
        x_angle = _centres(columns, aspect / diagonal)[:, None] * frequency
        y_angle = _centres(rows, 1 / diagonal)[:, None] * frequency
        x_part = torch.cat([x_angle.sin(), x_angle.cos()], dim=1)[None].expand(rows, -1, -1)
        y_part = torch.cat([y_angle.sin(), y_angle.cos()], dim=1)[:, None]
        table = torch.cat([x_part, y_part.expand(-1, columns, -1)], dim=2)
        weighted = SINE_WEIGHT * table.permute(2, 0, 1)[None].float().double()
        return weighted.to(device=device, dtype=dtype).contiguous()


def _centres(count: int, half_span: float) -> Tensor:
    """Return the centres of `count` equal cells that span [-half_span, half_span]."""
    edge = half_span * (count - 1) / count
    return torch.linspace(-edge, edge, count, dtype=torch.float64)
