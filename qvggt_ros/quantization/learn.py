# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The learned stage: smoothing factors and clipping ranges, one block at a time.

Block-wise reconstruction as QuantVGGT (section 3.2, after BRECQ) does it, with three differences:
a block learns on the inputs that the quantised blocks before it hand on; the special tokens, on
which the camera hangs, have a fixed share of the loss however many patches there are; and windows
that are not learned from choose the pass that is kept, for a few dozen windows are soon learned
by heart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from qvggt_ros.quantization.layers import QuantisedLayer
from qvggt_ros.quantization.observe import SPECIAL_WEIGHT
from qvggt_ros.quantization.recipe import NONE
from qvggt_ros.quantization.walk import Step, WalkState

# Of the states (a few windows each) every fifth judges what was learned on the others.
HELD_OUT = 5
LEARNED = ('smooth', 'weight_clip', 'activation_step')


@dataclass(frozen=True)
class LearnConfig:
    """The learned stage's length and speeds.

    Attributes:
        epochs: passes over the calibration windows.
        smoothing_rate: learning rate of log c.
        clip_rate: of the logarithms of clipping shares and static steps, at 4 bits.
        fine_factor: what the two are multiplied by for layers of 8 bits, whose steps are finer.
        bias_rate: of the biases, which every engine adds anyway.

    """

    epochs: int = 15
    smoothing_rate: float = 5e-3
    clip_rate: float = 1e-2
    fine_factor: float = 0.2
    bias_rate: float = 1e-3


def learn_block(
    step: Step,
    layers: dict[str, QuantisedLayer],
    inputs: Sequence[WalkState],
    wanted: Sequence[WalkState],
    config: LearnConfig,
    seed: int,
    weight_ranges: bool = True,
) -> None:
    """Refine a block's factors and ranges in place, as long as it helps on windows held out.

    Args:
        step: the block.
        layers: its quantised layers, enabled.
        inputs: states that the quantised network hands to it.
        wanted: states that the float network has after it.
        config: length and learning rates.
        seed: of the order.
        weight_ranges: whether clipping ranges of weights are learned too: not where weights are
            rounded with compensation afterwards, for they are learned for rounding to nearest.

    """
    judged = _judged(len(inputs))
    studied = [index for index in range(len(inputs)) if index not in judged] or judged
    states = [(inputs[index], wanted[index]) for index in judged]
    least = _total_loss(step, states)
    best = {name: _numbers(layer) for name, layer in layers.items()}
    learned = {name: _Learned(layer) for name, layer in layers.items()}
    optimizer = torch.optim.Adam(
        [group for layer in learned.values() for group in layer.groups(config, weight_ranges)],
        betas=(0.9, 0.99),
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, max(1, config.epochs * len(studied))
    )
    rng = np.random.default_rng((seed, len(inputs)))
    for _ in range(config.epochs):
        for index in rng.permutation(studied).tolist():
            with torch.enable_grad():
                for numbers in learned.values():
                    numbers.apply()
                loss = _loss(step, step.run(inputs[index]), wanted[index])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
        for numbers in learned.values():
            numbers.apply()
        found = _total_loss(step, states)
        if found < least:  # never where it is not a number
            least, best = found, {name: numbers.values() for name, numbers in learned.items()}
    for name, layer in layers.items():
        layer.learned_bias = None
        _put_back(layer, best[name])


def _judged(states: int) -> list[int]:
    """Return which states decide what is kept; nothing is learned on them if there are enough."""
    every = range(HELD_OUT - 1, states, HELD_OUT)
    return list(every or range(states))


class _Learned:
    """A layer's numbers as parameters; by their logarithms, so that they stay positive."""

    def __init__(self, layer: QuantisedLayer) -> None:
        self._layer = layer
        self.smooth = nn.Parameter(layer.smooth.log())
        self.clip = nn.Parameter(layer.weight_clip.log())
        self.step = nn.Parameter(layer.activation_step.log())
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())

    def groups(self, config: LearnConfig, weight_ranges: bool) -> Iterator[dict[str, object]]:
        """Return the optimiser's groups."""
        plan = self._layer.plan
        factor = config.fine_factor if plan.weight_bits == 8 else 1.0
        if weight_ranges:
            yield {'params': [self.clip], 'lr': factor * config.clip_rate}
        if self.bias is not None:
            yield {'params': [self.bias], 'lr': config.bias_rate}
        if plan.smoothing != NONE:
            yield {'params': [self.smooth], 'lr': factor * config.smoothing_rate}
        if plan.activation != NONE:
            factor = config.fine_factor if plan.activation_bits == 8 else 1.0
            yield {'params': [self.step], 'lr': factor * config.clip_rate}

    def apply(self) -> None:
        """Let the layer compute with the current parameters."""
        self._layer.smooth = self.smooth.exp()
        self._layer.weight_clip = self.clip.exp()
        self._layer.learned_bias = self.bias
        if self._layer.plan.activation != NONE:
            self._layer.activation_step = self.step.exp()

    def values(self) -> dict[str, Tensor]:
        """Return the current parameters as plain numbers."""
        numbers = _numbers(self._layer)
        return numbers if self.bias is None else {**numbers, 'bias': self.bias.detach().clone()}


def _numbers(layer: QuantisedLayer) -> dict[str, Tensor]:
    kept = {name: getattr(layer, name).detach() for name in LEARNED}
    return kept if layer.bias is None else {**kept, 'bias': layer.bias.detach().clone()}


def _put_back(layer: QuantisedLayer, numbers: dict[str, Tensor]) -> None:
    for name in LEARNED:
        setattr(layer, name, numbers[name])
    if layer.bias is not None:
        layer.bias.data.copy_(numbers['bias'])


def _total_loss(step: Step, states: Sequence[tuple[WalkState, WalkState]]) -> float:
    with torch.no_grad():
        return sum(float(_loss(step, step.run(state), answer)) for state, answer in states)


def _loss(step: Step, found: WalkState, wanted: WalkState) -> Tensor:
    """Return the error of a block's output over its size; special tokens weigh a quarter."""
    error = (found.x - wanted.x).square().mean(dim=-1)
    scale = wanted.x.square().mean(dim=-1)
    if step.special is None:
        return error.mean() / scale.mean()
    special = step.special
    of_special = error[..., :special].mean() / scale[..., :special].mean()
    of_patches = error[..., special:].mean() / scale[..., special:].mean()
    return SPECIAL_WEIGHT * of_special + (1 - SPECIAL_WEIGHT) * of_patches
