# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is learned is judged by windows that it was not learned from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qvggt_ros.quantization import learn
from qvggt_ros.quantization.layers import QuantisedLayer
from qvggt_ros.quantization.learn import LearnConfig, learn_block
from qvggt_ros.quantization.recipe import TOKEN, LayerPlan
from qvggt_ros.quantization.walk import Step


@dataclass
class State:
    """The part of a walk's state that a block reads."""

    x: Tensor


@pytest.fixture
def layer() -> QuantisedLayer:
    torch.manual_seed(0)
    plan = LayerPlan('layer', 'fc1', 4, activation=TOKEN, activation_bits=4, smoothing='norm')
    made = QuantisedLayer(nn.Linear(16, 8), plan)
    made.enabled = True
    return made


def taught(layer: QuantisedLayer, shifts: list[float]) -> tuple[Step, list[Any], list[Any]]:
    """Return a block of one layer, inputs, and wanted outputs that a bias alone can explain."""
    step = Step('block', ('layer',), lambda state: State(layer(state.x)), block=True)  # type: ignore[arg-type,return-value]
    torch.manual_seed(1)
    inputs = [State(torch.randn(1, 6, 16)) for _ in shifts]
    layer.enabled = False
    wanted = [
        State(layer(state.x).detach() + shift) for state, shift in zip(inputs, shifts, strict=True)
    ]
    layer.enabled = True
    return step, inputs, wanted


def test_every_fifth_state_judges_and_few_judge_themselves() -> None:
    assert learn._judged(20) == [4, 9, 14, 19]
    assert learn._judged(4) == [0, 1, 2, 3]


def test_what_all_states_ask_for_is_learned(layer: QuantisedLayer) -> None:
    step, inputs, wanted = taught(layer, [3.0] * 10)
    assert layer.bias is not None
    before = layer.bias.clone()
    learn_block(step, {'layer': layer}, inputs, wanted, LearnConfig(bias_rate=0.1), 0)
    assert float((layer.bias - before).min()) > 0.5
    assert layer.learned_bias is None


@pytest.mark.parametrize('ranges', [True, False])
def test_ranges_of_weights_are_learned_where_asked(layer: QuantisedLayer, ranges: bool) -> None:
    step, inputs, wanted = taught(layer, [3.0] * 10)
    before = layer.weight_clip.clone()
    learn_block(step, {'layer': layer}, inputs, wanted, LearnConfig(bias_rate=0.1), 0, ranges)
    assert torch.equal(layer.weight_clip, before) is not ranges


def test_what_the_held_out_states_contradict_is_not_kept(layer: QuantisedLayer) -> None:
    shifts = [-3.0 if index % 5 == 4 else 3.0 for index in range(10)]
    step, inputs, wanted = taught(layer, shifts)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    rates = LearnConfig(bias_rate=0.1, clip_rate=1e-6, smoothing_rate=1e-6)
    learn_block(step, {'layer': layer}, inputs, wanted, rates, 0)
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name]), name
