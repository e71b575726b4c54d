# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Predict latency and memory of a network on a device, from counted operations and bytes.

Every step takes as long as its operations or its bytes do, whichever is longer (the roofline
model), with the share of both peaks that engines have been seen to reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qvggt_ros.errors import UsageError
from qvggt_ros.evaluation.devices import FP16, FP32, INT8, Device
from qvggt_ros.evaluation.work import (
    KINDS,
    POINTWISE,
    Step,
    Work,
    bytes_moved,
    peak_bytes,
    tensor_widths,
    weight_bytes,
)

# Frames -> the work of each stage.
Counter = Callable[[int], Mapping[str, Work]]
MOST_FRAMES = 1024  # no window is longer than this


@dataclass(frozen=True)
class StagePrediction:
    """One stage on one device.

    Attributes:
        seconds: of each kind of step; `memory_bound` is the part where bytes decide.
        operations, moved: in all; operations, bytes.
        weights, activations: bytes in memory.

    """

    seconds: Mapping[str, float]
    memory_bound: float
    operations: int
    moved: float
    weights: float
    activations: float

    @property
    def total(self) -> float:
        """Seconds of the stage."""
        return sum(self.seconds.values())


def float_bytes(device: Device, precision: str) -> int:
    """Return how wide the engine's floats are.

    Raises:
        UsageError: the device's engine has no such numbers.

    """
    if precision == 'fp16' and not device.has_float16:
        raise UsageError(f'--precision fp16: the engine on {device.name} has no float16 products')
    return 2 if device.has_float16 and precision != 'fp32' else 4


def predict_stage(work: Work, device: Device, precision: str) -> StagePrediction:
    """Predict one graph; `precision` decides only how wide its floats are."""
    width = float_bytes(device, precision)
    widths = tensor_widths(work, width)
    seconds = dict.fromkeys(KINDS, 0.0)
    bound = all_moved = 0.0
    for step in work.steps:
        moved = bytes_moved(step, work, widths, width)
        computing, moving = _computing(step, device, width), _moving(step, device, moved)
        seconds[step.kind] += max(computing, moving) + device.step_seconds
        bound += moving if moving > computing else 0.0
        all_moved += moved
    operations = sum(work.operations().values())
    weights, activations = weight_bytes(work, width), peak_bytes(work, width)
    return StagePrediction(seconds, bound, operations, all_moved, weights, activations)


def predict(
    works: Mapping[str, Work], device: Device, precision: str
) -> dict[str, StagePrediction]:
    """Predict all stages."""
    return {name: predict_stage(work, device, precision) for name, work in works.items()}


def memory_needed(stages: Mapping[str, StagePrediction], device: Device) -> float:
    """Return the bytes that all stages' engines hold together; each keeps its own activations."""
    held = sum(stage.weights + stage.activations for stage in stages.values())
    return held + device.overhead


def largest_window(count: Counter, device: Device, precision: str) -> int:
    """Return the most frames that fit beside what the system needs; 0 if not even one does."""

    def fits(frames: int) -> bool:
        needed = memory_needed(predict(count(frames), device, precision), device)
        return needed + device.reserve <= device.memory

    fitting, too_many = 0, 1
    while too_many <= MOST_FRAMES and fits(too_many):
        fitting, too_many = too_many, 2 * too_many
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        if middle <= MOST_FRAMES and fits(middle):
            fitting = middle
        else:
            too_many = middle
    return fitting


def _computing(step: Step, device: Device, width: int) -> float:
    kind = INT8 if step.integer else FP16 if width == 2 else FP32
    return step.operations / (device.rates[kind] * device.compute_efficiency)


def _moving(step: Step, device: Device, moved: float) -> float:
    bandwidth = device.pointwise_bandwidth if step.kind == POINTWISE else device.bandwidth
    return moved / (bandwidth * device.memory_efficiency)
