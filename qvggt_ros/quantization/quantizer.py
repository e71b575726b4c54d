# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Symmetric quantisation of tensors, as integers and as what they stand for.

x_int = clamp(round(x / D), -2^(N-1), 2^(N-1) - 1), round half to even, with D the step
(QuantVGGT, equation 3). It is what ONNX's QuantizeLinear computes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# A tensor that is zero everywhere still needs a step.
LEAST_STEP = 1e-12
# An input in two parts: bits of each, and how many steps of the second are one of the first (half
# of that is the largest integer).
PART_BITS = 8
FINER = 254
# Shares of the largest magnitude that are tried as clipping ranges.
CLIP_SHARES = tuple(1 - 0.025 * k for k in range(25))
# Of activations: one range for all tokens can be a thousand times too wide where outliers sit on
# few of them, so the search goes far down first.
COARSE_SHARES = tuple(0.7**k for k in range(24))
FINE_FACTORS = (0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.3)


def integer_range(bits: int) -> tuple[int, int]:
    """Return the least and the largest integer of a signed type."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def largest_integer(bits: int) -> int:
    """Return the integer that the largest magnitude becomes."""
    return 2 ** (bits - 1) - 1


def to_integers(x: Tensor, step: Tensor, bits: int) -> Tensor:
    """Return x as whole numbers (in x's own type), clamped to the signed range."""
    low, high = integer_range(bits)
    return (x / step).round().clamp(low, high)


def round_through(x: Tensor) -> Tensor:
    """Round to even; the gradient passes as if nothing had happened (straight-through)."""
    return x + (x.round() - x).detach()


def fake_quantise(x: Tensor, step: Tensor, bits: int) -> Tensor:
    """Return the numbers that the integers stand for; differentiable in x and in the step."""
    low, high = integer_range(bits)
    return round_through(x / step).clamp(low, high) * step


def fake_quantise_twice(x: Tensor, step: Tensor) -> Tensor:
    """Return what two integers of 8 bits stand for: one for x, one for what that leaves over."""
    low, high = integer_range(PART_BITS)
    steps = x / step
    first = round_through(steps).clamp(low, high)
    second = round_through((steps - first) * FINER).clamp(low, high)
    return (first + second / FINER) * step


def fake_quantise_tokens(
    x: Tensor, share: Tensor | float, bits: int, block: int | None = None, offset: bool = False
) -> Tensor:
    """Return what integers with a step for each token, computed as it comes, stand for.

    Args:
        x: [..., channels].
        share: of each range that is kept.
        bits: of the integers.
        block: neighbouring channels that have a step of their own; None: the whole token.
        offset: whether the range runs from the least to the largest number, and not as far below
            zero as above.

    """
    blocks = x if block is None else x.unflatten(-1, (-1, block))
    seen = blocks.detach()
    if offset:
        low, high = seen.amin(dim=-1, keepdim=True), seen.amax(dim=-1, keepdim=True)
        step = (share * (high - low)).clamp(min=LEAST_STEP) / (2**bits - 1)
        shift = (low + high + step) / 2  # integers reach one further below zero than above
        return (fake_quantise(blocks - shift, step, bits) + shift).reshape(x.shape)
    step = step_of(share * seen.abs().amax(dim=-1, keepdim=True), bits)
    return fake_quantise(blocks, step, bits).reshape(x.shape)


def step_of(largest: Tensor, bits: int) -> Tensor:
    """Return the step with which a magnitude becomes the largest integer."""
    return largest.clamp(min=LEAST_STEP) / largest_integer(bits)


def weight_blocks(weight: Tensor, block: int | None) -> Tensor:
    """View weights [out, ...] as [out, blocks, inputs per block]; one block if None."""
    flat = weight.flatten(1)
    return flat[:, None] if block is None else flat.unflatten(1, (-1, block))


def search_weight_clip(weight: Tensor, importance: Tensor, bits: int, block: int | None) -> Tensor:
    """Find the share of each row's (or block's) range that costs the least.

    Args:
        weight: [out, ...].
        importance: [inputs] mean square of each input: what an error of its weight costs.
        bits: of the weights.
        block: inputs per block, or None for whole rows.

    Returns:
        [out, blocks, 1] in (0, 1].

    """
    blocks = weight_blocks(weight, block)
    cost = importance.reshape(1, -1) if block is None else importance.unflatten(0, (-1, block))
    largest = blocks.abs().amax(dim=-1, keepdim=True)
    best = torch.ones_like(largest)
    least = torch.full_like(largest, torch.inf)
    for share in CLIP_SHARES:
        error = fake_quantise(blocks, step_of(share * largest, bits), bits) - blocks
        loss = (error.square() * cost).sum(dim=-1, keepdim=True)
        better = loss < least
        least = torch.where(better, loss, least)
        best = torch.where(better, torch.full_like(best, share), best)
    return best


def search_activation_clip(
    rows: Tensor,
    row_weight: Tensor,
    weight: Tensor,
    quantised: Callable[[float], Tensor],
) -> float:
    """Find the share of the whole range at which the layer's output suffers least.

    What counts is the error of the product, not of its inputs: large inputs that the weights
    ignore, or that cancel each other there, may be clipped at will.

    Args:
        rows: [n, inputs] sampled activations.
        row_weight: [n] how much each row counts.
        weight: [out, inputs] of the layer.
        quantised: returns the rows as they are with a share of their range.

    Returns:
        a share in (0, 1].

    """

    def loss(share: float) -> float:
        error = quantised(share) - rows
        return float(((error @ weight.T).square().sum(dim=1) * row_weight).sum())

    coarse = min(COARSE_SHARES, key=loss)
    return min((coarse * factor for factor in FINE_FACTORS if coarse * factor <= 1), key=loss)
