# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Ranges that are searched lose less of a layer's output than whole ones, and keep their ends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qvggt_ros.quantization.layers import QuantisedLayer
from qvggt_ros.quantization.observe import Observer
from qvggt_ros.quantization.ranges import HEADROOM, prepare_ranges
from qvggt_ros.quantization.recipe import METHODS, STATIC, TOKEN, TWO_PARTS, LayerPlan
from qvggt_ros.quantization.walk import Step

CHANNELS = 16
STEP = Step('step', (), lambda state: state)


def one_sided() -> Tensor:
    torch.manual_seed(0)
    return nn.functional.gelu(2 * torch.randn(500, CHANNELS))


def prepared(plan: LayerPlan, rows: Tensor, method: str = 'dsfq') -> QuantisedLayer:
    torch.manual_seed(1)
    layer = QuantisedLayer(nn.Linear(CHANNELS, 8), plan)
    seen = Observer('layer', STEP, 1)
    seen.add(rows)
    prepare_ranges(layer, seen, METHODS[method], 0.5)
    layer.enabled = True
    return layer


def error(layer: QuantisedLayer, rows: Tensor) -> float:
    layer.enabled = False
    wanted = layer(rows)
    layer.enabled = True
    return float((layer(rows) - wanted).square().mean().detach())


def plan(**fields: object) -> LayerPlan:
    return LayerPlan('layer', 'fc2', 8, **fields)  # type: ignore[arg-type]


def test_a_one_sided_input_keeps_its_lower_end() -> None:
    rows = one_sided()
    layer = prepared(plan(activation=STATIC, activation_bits=8, offset=True), rows)
    assert float(layer.quantised_input(rows).amin()) == pytest.approx(float(rows.amin()), abs=0.03)
    without = prepared(plan(activation=STATIC, activation_bits=8), rows)
    assert float(without.activation_offset) == 0
    assert error(layer, rows) < 0.5 * error(without, rows)


@pytest.mark.parametrize('fields', [{}, {'offset': True}, {'activation_block': 4}])
def test_tokens_with_searched_ranges_lose_less(fields: dict[str, object]) -> None:
    rows = one_sided()
    searched = prepared(plan(activation=TOKEN, activation_bits=4, **fields), rows)
    assert 0 < float(searched.activation_step) <= 1
    whole = prepared(plan(activation=TOKEN, activation_bits=4, **fields), rows, 'rtn')
    assert float(whole.activation_step) == 1
    assert error(searched, rows) <= error(whole, rows)


def test_offsets_and_blocks_make_tokens_finer() -> None:
    rows = one_sided()
    plain = error(prepared(plan(activation=TOKEN, activation_bits=4), rows), rows)
    for finer in ({'offset': True}, {'activation_block': 4}):
        layer = prepared(plan(activation=TOKEN, activation_bits=4, **finer), rows)
        assert error(layer, rows) < 0.6 * plain


def test_an_input_in_two_parts_has_room_above() -> None:
    rows = one_sided()
    layer = prepared(plan(activation=STATIC, activation_bits=TWO_PARTS), rows)
    largest = rows.abs().amax()
    assert torch.allclose(layer.activation_step, HEADROOM * largest / 127)


def test_quarots_fixed_share_is_for_four_bits_alone() -> None:
    rows = one_sided()
    four = prepared(plan(activation=TOKEN, activation_bits=4), rows, 'quarot')
    eight = prepared(plan(activation=TOKEN, activation_bits=8), rows, 'quarot')
    assert float(four.activation_step) == pytest.approx(0.9)
    assert float(eight.activation_step) == 1
