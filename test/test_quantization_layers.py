# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A quantised layer is its float layer until enabled, and integer arithmetic afterwards."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from qvggt_ros.quantization.layers import QuantisedLayer, Source, enable, replace_layers
from qvggt_ros.quantization.recipe import LayerPlan, plan_layers
from qvggt_ros.vggt import VGGTConfig

W8A8 = LayerPlan('layer', 'fc1', 8, None, 'static', 8)
W4A16 = LayerPlan('layer', 'fc1', 4, 8)


def linear(plan: LayerPlan = W8A8) -> tuple[nn.Linear, QuantisedLayer]:
    torch.manual_seed(0)
    source = nn.Linear(16, 6)
    return source, QuantisedLayer(source, plan)


@pytest.mark.parametrize(
    'source',
    [
        nn.Linear(16, 6),
        nn.Conv2d(16, 6, 3, padding=1),
        nn.Conv2d(16, 6, 3, stride=2, padding=1, bias=False),
        nn.ConvTranspose2d(16, 6, 4, stride=4),
    ],
)
def test_a_layer_is_float_until_enabled(source: Source) -> None:
    layer = QuantisedLayer(source, W8A8)
    x = torch.randn(2, 16) if isinstance(source, nn.Linear) else torch.randn(2, 16, 5, 7)
    torch.testing.assert_close(layer(x), source(x))
    layer.activation_step = torch.tensor(0.03)
    layer.enabled = True
    error = (layer(x) - source(x)).detach()
    assert 0 < float(error.abs().max()) < 0.2


def test_an_enabled_layer_multiplies_integers() -> None:
    source, layer = linear()
    layer.activation_step, layer.enabled = torch.tensor(0.02), True
    x = torch.randn(9, 16)
    integers, steps = layer.integer_weight()
    assert integers.dtype == torch.int8 and steps.shape == (6, 1)
    inputs = (x / 0.02).round().clamp(-128, 127).long()
    product = inputs @ integers.long().T
    torch.testing.assert_close(layer(x), product * 0.02 * steps[:, 0] + source.bias)


def test_an_offset_uses_the_whole_range_of_a_one_sided_input() -> None:
    _, layer = linear()
    x = torch.rand(50, 16)
    layer.activation_step = torch.tensor(1 / 255)
    layer.activation_offset = torch.tensor(128.0)
    assert float((layer.quantised_input(x) - x).abs().max()) <= 0.5 / 255 * 1.01


def test_smoothing_moves_range_from_inputs_to_weights() -> None:
    source, layer = linear(replace(W8A8, smoothing='online'))
    layer.smooth = torch.linspace(0.5, 4, 16)
    x = torch.randn(5, 16)
    torch.testing.assert_close(layer(x), source(x))
    torch.testing.assert_close(layer.prepared(x), x / layer.smooth)


def test_an_online_rotation_changes_nothing_in_float() -> None:
    source, layer = linear(replace(W8A8, hadamard=True))
    x = torch.randn(5, 16)
    torch.testing.assert_close(layer(x), source(x))
    assert not torch.allclose(layer.prepared(x), x)


def test_blocks_of_four_bits_have_steps_of_their_own() -> None:
    _, layer = linear(W4A16)
    integers, steps = layer.integer_weight()
    assert steps.shape == (6, 2) and integers.min() >= -8 and integers.max() == 7
    expected = integers.unflatten(1, (2, 8)) * steps[..., None]
    torch.testing.assert_close(layer.quantised_weight(), expected.flatten(1))


def test_given_integers_stand_in_for_rounding() -> None:
    _, layer = linear(W4A16)
    integers, _ = layer.integer_weight()
    layer.rounded = (integers + 1).clamp(max=7)
    assert torch.equal(layer.integer_weight()[0], layer.rounded)
    assert not torch.allclose(layer.quantised_weight(), linear(W4A16)[1].quantised_weight())


def test_planned_layers_are_replaced_and_switched_together() -> None:
    from small_networks import SMALL, lively

    model = lively(SMALL)
    layers = replace_layers(model, plan_layers(model, 'w8a8', 'rtn'))
    enable(model, True)
    assert len(layers) > 40 and all(layer.enabled for layer in layers.values())
    assert isinstance(model.camera_head.embed_pose, nn.Linear)


def test_the_large_model_can_be_planned_without_its_weights() -> None:
    from qvggt_ros.vggt import VGGT

    with torch.device('meta'):
        model = VGGT(VGGTConfig.vggt_1b(point_head=False, track_head=False))
    plans = plan_layers(model, 'w4a16', 'dsfq')
    weights = sum(p.numel() for p in model.parameters() if p.ndim >= 2)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    four = sum(sizes[f'{name}.weight'] for name, plan in plans.items() if plan.weight_bits == 4)
    assert four > 0.95 * weights
