# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Quantise a network step by step on calibration windows.

Each step is seen twice: with its float inputs, which say what it should answer, and with the
inputs that the quantised steps before it really hand on, on which its ranges are refined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qvggt_ros.errors import CalibrationError
from qvggt_ros.quantization.calibration_state import CalibrationState
from qvggt_ros.quantization.compensate import compensated_integers
from qvggt_ros.quantization.fold import (
    fold_head_balance,
    fold_head_rotation,
    fold_layer_scale,
    fold_rotation,
)
from qvggt_ros.quantization.layers import QuantisedLayer, enable, quantised_layers, replace_layers
from qvggt_ros.quantization.learn import LearnConfig, learn_block
from qvggt_ros.quantization.observe import Observer, observed, second_moments
from qvggt_ros.quantization.quantizer import LEAST_STEP
from qvggt_ros.quantization.ranges import prepare_ranges
from qvggt_ros.quantization.recipe import (
    LayerPlan,
    Method,
    get_method,
    plan_layers,
)
from qvggt_ros.quantization.walk import Step, WalkState, walk_steps
from qvggt_ros.vggt import VGGT

Windows = NDArray[np.uint8]
# Tokens that are worked on at once, and learned from in one step.
TOKENS_AT_ONCE = 1024


@dataclass(frozen=True)
class QuantiseConfig:
    """Choices of a calibration that no plan holds.

    Attributes:
        seed: of rotations and of the learned stage's order.
        smoothing_power: the a of c = max|x|^a / max|W|^(1-a) (QuantVGGT, equation 7).
        learn: of the learned stage; None leaves it out, whatever the method says.
        consume: quantise the given network itself, and let go of each step's float weights once
            it is done: what a network needs that barely fits in memory.

    """

    seed: int = 0
    smoothing_power: float = 0.5
    learn: LearnConfig | None = field(default_factory=LearnConfig)
    consume: bool = False


@dataclass(frozen=True)
class LayerReport:
    """How much of its output a layer loses, by itself.

    Attributes:
        plan: what was done to it.
        relative_error: mean square error of its output over the output's mean square.

    """

    plan: LayerPlan
    relative_error: float


@dataclass(frozen=True)
class Quantised:
    """A quantised network: the float network's modules, methods and names.

    Attributes:
        model: ready to run, in simulation.
        precision, method: their names.
        layers: report by layer name, in running order.
        step_errors: relative error of each step's output, with everything before it quantised.

    """

    model: VGGT
    precision: str
    method: str
    layers: dict[str, LayerReport]
    step_errors: dict[str, float]


Progress = Callable[[str, int, int], None]  # (what, done, total)


def quantise(
    model: VGGT,
    windows: Windows,
    precision: str,
    method: str,
    config: QuantiseConfig | None = None,
    progress: Progress = lambda what, done, total: None,
    state_dir: Path | None = None,
) -> Quantised:
    """Quantise a copy of a float network.

    Args:
        model: in evaluation mode, on the CPU; used up if the configuration says so.
        windows: calibration windows [n, S, H, W, 3] RGB.
        precision: one of `recipe.PRECISIONS`.
        method: one of `recipe.METHODS`.
        config: see there.
        progress: called before each step.
        state_dir: finished steps are kept there, and taken from there when run again.

    Raises:
        UsageError: a name is not known. CalibrationError: no windows, or activations that are
            not finite.

    """
    if not len(windows):
        raise CalibrationError('calibration: no windows; give a source with more images')
    config = config or QuantiseConfig()
    prepared = get_method(method)
    plans = plan_layers(model, precision, method)
    network = _folded(model, prepared, config)
    layers = replace_layers(network, plans)
    size = (windows.shape[2], windows.shape[3])
    steps = walk_steps(network, size, windows.shape[1])
    calibration = _Calibration(network, prepared, config, CalibrationState(state_dir))
    calibration.begin(windows)
    with torch.no_grad():
        for index, step in enumerate(steps):
            progress(step.name, index, len(steps))
            calibration.take(step)
    enable(network, True)
    ordered = {name: calibration.reports[name] for name in layers}
    return Quantised(network, precision, method, ordered, calibration.step_errors)


def _folded(model: VGGT, method: Method, config: QuantiseConfig) -> VGGT:
    """Return the network in the method's bases; a copy unless it may be used up."""
    network = fold_layer_scale(model, config.consume)
    if method.rotate:
        network = fold_rotation(network, config.seed, in_place=True)
    if method.head_rotation:
        network = fold_head_rotation(network, method.balance, in_place=True)
    if method.balance:
        network = fold_head_balance(network, in_place=True)
    return network


class _Calibration:
    """The walk over the steps: float states, quantised states, and what is learned on the way."""

    def __init__(
        self, network: VGGT, method: Method, config: QuantiseConfig, state: CalibrationState
    ) -> None:
        self._network, self._method, self._config = network, method, config
        self._state = state
        self.reports: dict[str, LayerReport] = {}
        self.step_errors: dict[str, float] = {}
        self._float: list[WalkState] = []
        self._quantised: list[WalkState] = []

    def begin(self, windows: Windows) -> None:
        """Put the windows at the network's entrance, a few per state."""
        frames, height, width = windows.shape[1:4]
        patch = self._network.config.patch_size
        tokens = frames * (height // patch) * (width // patch)
        at_once = max(1, TOKENS_AT_ONCE // tokens)
        for start in range(0, len(windows), at_once):
            part = torch.from_numpy(windows[start : start + at_once])
            images = part.permute(0, 1, 4, 2, 3).float() / 255
            self._float.append(WalkState(images))
        self._quantised = list(self._float)

    def take(self, step: Step) -> None:
        """Calibrate one step and carry all states over it."""
        layers = _layers_of(self._network, step)
        for layer in layers.values():
            layer.enabled = False
        with observed(layers, step, len(self._float)) as observers:
            answers = [step.run(state) for state in self._float]
        restored = self._state.restore(step.name, layers)
        for name, layer in layers.items():
            if not restored:
                prepare_ranges(layer, observers[name], self._method, self._config.smoothing_power)
            layer.enabled = True
        learn = self._config.learn if self._method.learn else None
        # Measured (docs/quantization.md): inputs of 8 bits or more have nothing to learn, and
        # weights of 4 bits gain more from compensation, which learned ranges do not suit.
        coarse = any(layer.plan.activation_bits < 8 for layer in layers.values())
        if self._method.search and not restored:
            self._correct_biases(layers, observers)
        if learn is not None and step.block and coarse and not restored:
            ranges = not self._method.compensate
            learn_block(step, layers, self._quantised, answers, learn, self._config.seed, ranges)
        if self._method.compensate and not restored and self._compensate(step, layers):
            self._correct_biases(layers, observers)
        for name, layer in layers.items():
            self.reports[name] = _report(layer, observers[name])
        self._state.keep(step.name, layers)
        if self._config.consume:
            for layer in layers.values():
                layer.settle()
        self._quantised = [step.run(state) for state in self._quantised]
        self.step_errors[step.name] = _step_error(self._quantised, answers)
        self._float = answers

    def _compensate(self, step: Step, layers: dict[str, QuantisedLayer]) -> bool:
        """Round 4-bit weights anew, on the inputs that the quantised network hands on.

        Returns whether there were any.
        """
        coarse = {
            name: layer
            for name, layer in layers.items()
            if layer.plan.weight_bits < 8 and layer.weight.ndim == 2
        }
        if not coarse:
            return False
        with second_moments(coarse, step) as moments:
            for state in self._quantised:
                step.run(state)
        for name, layer in coarse.items():
            weight = layer.smoothed_weight()
            steps = layer.weight_steps(weight)[..., 0]
            rounded = compensated_integers(weight, steps, moments[name], layer.plan.weight_bits)
            layer.rounded = rounded.to(torch.int8)
        return True

    def _correct_biases(
        self, layers: dict[str, QuantisedLayer], observers: dict[str, Observer]
    ) -> None:
        """Take the mean error of each layer's output out of its bias; it costs nothing.

        The correction is one of the float bias: what was corrected or learned before is replaced.
        """
        for name, layer in layers.items():
            if layer.bias is not None and layer.float_bias is not None and layer.weight.ndim == 2:
                found, wanted = _answers(layer, observers[name])
                weight = observers[name].row_weight
                error = ((wanted - found) * weight[:, None]).sum(dim=0) / weight.sum()
                layer.bias.data = layer.float_bias + error


def _layers_of(network: VGGT, step: Step) -> dict[str, QuantisedLayer]:
    return {
        f'{prefix}.{name}' if name else prefix: layer
        for prefix in step.modules
        for name, layer in quantised_layers(network.get_submodule(prefix))
    }


def _report(layer: QuantisedLayer, seen: Observer) -> LayerReport:
    """Measure on the sampled rows how much of its output a layer loses by itself."""
    found, wanted = _answers(layer, seen)
    error = ((found - wanted).square().mean(dim=1) * seen.row_weight).sum()
    scale = (wanted.square().mean(dim=1) * seen.row_weight).sum()
    return LayerReport(layer.plan, float(error / scale.clamp(min=LEAST_STEP)))


def _answers(layer: QuantisedLayer, seen: Observer) -> tuple[Tensor, Tensor]:
    """Return a layer's quantised and float products on the sampled rows, [n, out] each."""
    rows, weight = seen.rows / layer.smooth, layer.smoothed_weight().flatten(1)
    reads = weight.shape[1] // rows.shape[1]
    if reads > 1:  # a convolution's neighbourhood, as if it were flat
        rows = rows.repeat_interleave(reads, dim=1)
    found = layer.quantised_input(rows) @ layer.quantised_weight().flatten(1).T
    return found, rows @ weight.T


def _step_error(found: Sequence[WalkState], wanted: Sequence[WalkState]) -> float:
    """Return the mean square error of a step's output over its mean square."""
    error, scale = 0.0, LEAST_STEP
    for one, other in zip(found, wanted, strict=True):
        answer, truth = _output(one), _output(other)
        error += float((answer - truth).square().mean())
        scale += float(truth.square().mean())
    return error / scale


def _output(state: WalkState) -> Tensor:
    if state.raw_depth is not None:
        return state.raw_depth
    return state.x if state.pose_enc is None else state.pose_enc
