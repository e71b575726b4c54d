# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A layer's smoothing factors and clipping ranges, from what was seen of its input."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from qvggt_ros.quantization.layers import QuantisedLayer
from qvggt_ros.quantization.observe import Observer
from qvggt_ros.quantization.quantizer import (
    PART_BITS,
    fake_quantise,
    fake_quantise_tokens,
    search_activation_clip,
    search_weight_clip,
    step_of,
)
from qvggt_ros.quantization.recipe import NONE, TOKEN, Method
from qvggt_ros.quantization.smoothing import smoothing_factors

# Where 16 bits are there, one of them is for inputs larger than any seen.
HEADROOM = 2.0
# Products of one try of a clipping range; larger layers are tried on fewer rows.
SEARCH_PRODUCTS = 500_000_000


def prepare_ranges(
    layer: QuantisedLayer, seen: Observer, method: Method, smoothing_power: float
) -> None:
    """Set a layer's factors and ranges.

    Args:
        layer: is changed.
        seen: of its input, after the rotation that is left online.
        method: says what is smoothed and what is searched.
        smoothing_power: the a of c = max|x|^a / max|W|^(1-a) (QuantVGGT, equation 7).

    """
    plan = layer.plan
    if plan.smoothing != NONE:
        layer.smooth = smoothing_factors(seen.typical_largest, layer.weight, smoothing_power)
    if method.search:
        squares = _per_input(layer, seen.mean_square / layer.smooth.square())
        layer.weight_clip = search_weight_clip(
            layer.smoothed_weight(), squares, plan.weight_bits, plan.weight_block
        )
    if plan.activation == TOKEN:
        _prepare_tokens(layer, seen, method)
    elif plan.activation != NONE:
        _prepare_tensor(layer, seen, method)


def _prepare_tokens(layer: QuantisedLayer, seen: Observer, method: Method) -> None:
    """Choose which share of each token's range is kept."""
    plan, share = layer.plan, _unsearched_share(layer, method)
    if method.search:
        rows, counts = _searched_rows(layer, seen)
        quantised = partial(
            fake_quantise_tokens,
            rows,
            bits=plan.activation_bits,
            block=plan.activation_block,
            offset=plan.offset,
        )
        share = search_activation_clip(rows, counts, _as_matrix(layer), quantised)
    layer.activation_step = layer.weight.new_tensor(share)


def _prepare_tensor(layer: QuantisedLayer, seen: Observer, method: Method) -> None:
    """Choose the one step of all tokens."""
    plan, bits = layer.plan, layer.plan.activation_bits
    largest, low = (seen.largest / layer.smooth).amax(), None
    if plan.offset:
        low = (seen.least / layer.smooth).amin()
        largest = ((seen.rows / layer.smooth).amax() - low) / 2
    if plan.in_two_parts:
        layer.activation_step = step_of(HEADROOM * largest, PART_BITS)
        return
    share = _unsearched_share(layer, method)
    if method.search:
        rows, counts = _searched_rows(layer, seen)

        def quantised(share: float) -> Tensor:
            reach = share * largest
            shift = 0.0 if low is None else low + reach
            return fake_quantise(rows - shift, step_of(reach, bits), bits) + shift

        share = search_activation_clip(rows, counts, _as_matrix(layer), quantised)
    layer.activation_step = step_of(share * largest, bits)
    if low is not None:
        # The lower end stays in range, whatever the share: GELU has a floor, not a ceiling.
        layer.activation_offset = (low / layer.activation_step).floor() + 2 ** (bits - 1)


def _unsearched_share(layer: QuantisedLayer, method: Method) -> float:
    return method.token_clip if layer.plan.activation_bits < 8 else 1.0


def _searched_rows(layer: QuantisedLayer, seen: Observer) -> tuple[Tensor, Tensor]:
    """Return sampled inputs as they are quantised, fewer for large layers, and their weights."""
    some = slice(None, None, 1 + len(seen.rows) * layer.weight.numel() // SEARCH_PRODUCTS)
    return seen.rows[some] / layer.smooth, seen.row_weight[some]


def _as_matrix(layer: QuantisedLayer) -> Tensor:
    """Return smoothed weights as [rows, inputs]; each tap of a convolution is a row of its own."""
    return layer.smoothed_weight().transpose(0, 1).flatten(1).T


def _per_input(layer: QuantisedLayer, per_channel: Tensor) -> Tensor:
    """Repeat a value per channel for every weight that reads it."""
    return per_channel.repeat_interleave(layer.weight[0, 0].numel())
