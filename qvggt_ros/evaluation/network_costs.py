# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Count what a VGGT network of given sizes does: the same steps as in its exported graphs.

For networks that have not been exported, and for other image sizes than a bundle's own. A test
compares the count with that of real graphs.
"""

from __future__ import annotations

from collections.abc import Sequence

from qvggt_ros.evaluation.work import (
    ATTENTION,
    CONVOLUTION,
    EPILOGUE,
    POINTWISE,
    PRODUCT,
    Step,
    Weight,
    Work,
    fused,
)
from qvggt_ros.vggt.config import VGGTConfig

POSE_CHANNELS = 9


def network_work(
    config: VGGTConfig, size: tuple[int, int], frames: int, attention: str = 'fused'
) -> dict[str, Work]:
    """Return the work of `encoder`, `window` and `depth`, in float.

    Args:
        config: the network's sizes.
        size: image height and width in pixels.
        frames: in the window, all of them new.
        attention: `fused`, or `pattern` where scores are stored.

    """
    grid = config.grid(*size)
    return {
        'encoder': _encoder(config, size, grid, frames, attention),
        'window': _window(config, grid, frames, attention),
        'depth': _depth(config, size, grid, frames),
    }


class _Trace:
    """Notes steps as a network would run; tensors are named by number."""

    def __init__(self, attention: str) -> None:
        self._spelling = attention
        self._steps: list[Step] = []
        self._constants = 0
        self._inputs: list[str] = []
        self.numbers: dict[str, int] = {}

    def input(self, numbers: int) -> str:
        name = self._new(numbers)
        self._inputs.append(name)
        return name

    def product(
        self, x: str, weight: str, inputs: int, outputs: int, kernel: int = 1, numbers: int = 0
    ) -> str:
        """Multiply [..., inputs] by a weight of kernel * kernel positions, and add a bias."""
        y = self._new(numbers or self.numbers[x] // inputs * outputs)
        held = Weight(weight, inputs * outputs * kernel**2)
        operations = 2 * inputs * kernel**2 * self.numbers[y]
        kind = PRODUCT if kernel == 1 else CONVOLUTION
        self._steps.append(Step(kind, operations, {x: self.numbers[x]}, (y,), held))
        return y

    def enlarge(self, x: str, weight: str, channels: int, factor: int) -> str:
        """Convolve backwards with a stride as wide as the kernel."""
        y = self._new(self.numbers[x] * factor**2)
        held = Weight(weight, channels**2 * factor**2)
        operations = 2 * channels * self.numbers[y]
        self._steps.append(Step(CONVOLUTION, operations, {x: self.numbers[x]}, (y,), held))
        return y

    def pointwise(self, reads: Sequence[str], numbers: int = 0, stored: int = 0) -> str:
        """Compute numbers from as many of each input, without any product."""
        count = numbers or self.numbers[reads[0]]
        self._constants += stored
        read = {name: min(self.numbers[name], count) for name in reads}
        return self._step(POINTWISE, read, count)

    def epilogue(self, reads: Sequence[str]) -> str:
        """Compute number by number, with the product before it if there is one."""
        return self._step(EPILOGUE, {x: self.numbers[x] for x in reads}, self.numbers[reads[0]])

    def attend(
        self, parts: Sequence[str], tokens: int, length: int, width: int, heads: int
    ) -> str:
        """Let `tokens` queries in all attend to `length` keys each."""
        numbers = tokens * width
        operations = 2 * numbers * length
        if self._spelling == 'fused':
            out = self._new(numbers)
            reads = {name: numbers * parts.count(name) for name in parts}
            self._steps.append(Step(ATTENTION, 2 * operations, reads, (out,)))
            return out
        query, key = (self.pointwise([part], numbers) for part in parts[:2])
        scores = self._multiply(query, key, operations, tokens * heads * length)
        shares = self.pointwise([scores])
        value = self.pointwise([parts[2]], numbers)
        mixed = self._multiply(shares, value, operations, numbers)
        return self.pointwise([mixed])

    def work(self, outputs: Sequence[str]) -> Work:
        steps, ends = tuple(self._steps), tuple(outputs)
        return fused(Work(steps, self.numbers, tuple(self._inputs), ends, self._constants))

    def _multiply(self, a: str, b: str, operations: int, numbers: int) -> str:
        out = self._new(numbers)
        reads = {name: self.numbers[name] for name in (a, b)}
        self._steps.append(Step(ATTENTION, operations, reads, (out,)))
        return out

    def _step(self, kind: str, reads: dict[str, int], numbers: int) -> str:
        out = self._new(numbers)
        self._steps.append(Step(kind, 0, reads, (out,)))
        return out

    def _new(self, numbers: int) -> str:
        name = f't{len(self.numbers)}'
        self.numbers[name] = numbers
        return name


def _block(
    trace: _Trace,
    x: str,
    name: str,
    config: VGGTConfig,
    width: int,
    heads: int,
    length: int,
    normed: bool = False,
) -> str:
    """Note one transformer block on x [tokens, width], each of which sees `length` tokens."""
    tokens = trace.numbers[x] // width
    qkv = trace.product(trace.pointwise([x]), f'{name}.qkv', width, 3 * width)
    parts = [qkv] * 3
    if normed:  # and rotated
        parts[:2] = [trace.pointwise([qkv], tokens * width) for _ in range(2)]
    out = trace.attend(parts, tokens, length, width, heads)
    x = trace.epilogue([trace.product(out, f'{name}.proj', width, width), x])
    hidden = config.mlp_ratio * width
    wide = trace.epilogue([trace.product(trace.pointwise([x]), f'{name}.fc1', width, hidden)])
    return trace.epilogue([trace.product(wide, f'{name}.fc2', hidden, width), x])


def _encoder(
    config: VGGTConfig, size: tuple[int, int], grid: tuple[int, int], frames: int, attention: str
) -> Work:
    trace, width, patch = _Trace(attention), config.width, config.patch_size
    patches = grid[0] * grid[1]
    tokens = patches + 1 + config.encoder_registers
    images = trace.input(frames * 3 * size[0] * size[1])
    x = trace.product(
        trace.pointwise([images]), 'patch', 3, width, patch, frames * patches * width
    )
    x = trace.pointwise([x], frames * tokens * width, stored=tokens * width)
    for index in range(config.encoder_depth):
        x = _block(trace, x, f'block{index}', config, width, config.heads, tokens)
    return trace.work([trace.pointwise([x], frames * patches * width)])


def _window(config: VGGTConfig, grid: tuple[int, int], frames: int, attention: str) -> Work:
    trace, width, heads = _Trace(attention), config.width, config.heads
    patches = grid[0] * grid[1]
    tokens = patches + config.special_tokens
    x = trace.input(frames * patches * width)
    x = trace.pointwise([x], frames * tokens * width)
    taps = []
    for pair in range(config.aggregator_depth):
        in_frame = _block(trace, x, f'frame{pair}', config, width, heads, tokens, True)
        x = _block(trace, in_frame, f'global{pair}', config, width, heads, frames * tokens, True)
        if pair in config.taps:
            taps.append(trace.pointwise([in_frame, x], 2 * frames * patches * width))
    camera = trace.pointwise([in_frame, x], 2 * frames * width)
    return trace.work([_camera(trace, camera, config, frames), *taps])


def _camera(trace: _Trace, tokens: str, config: VGGTConfig, frames: int) -> str:
    """Note the camera head; what its first iteration knows beforehand is a constant."""
    width = 2 * config.width
    plain = trace.pointwise([tokens], stored=3 * width)
    estimate = ''
    for iteration in range(config.camera_iterations):
        known = [tokens, plain]
        if iteration:
            embedded = trace.product(estimate, 'embed', POSE_CHANNELS, width)
            known.append(trace.product(trace.epilogue([embedded]), 'modulation', width, 3 * width))
        x = trace.pointwise(known, frames * width)
        for index in range(config.camera_depth):
            x = _block(trace, x, f'camera{index}', config, width, config.camera_heads, frames)
        hidden = trace.product(trace.pointwise([x]), 'pose.fc1', width, config.width)
        step = trace.product(trace.epilogue([hidden]), 'pose.fc2', config.width, POSE_CHANNELS)
        estimate = trace.epilogue([step, estimate] if iteration else [step])
    return trace.pointwise([estimate])


def _depth(config: VGGTConfig, size: tuple[int, int], grid: tuple[int, int], frames: int) -> Work:
    trace, features = _Trace('fused'), config.dpt_features
    rows, columns = grid
    half = (rows + 1) // 2, (columns + 1) // 2
    areas = [frames * a * b for a, b in (half, grid, (2 * rows, 2 * columns))]
    areas += [frames * (4 * rows) * (4 * columns), frames * (8 * rows) * (8 * columns)]
    l1, l2, l3, l4 = _pyramid(trace, config, frames, areas)
    x = _residual(trace, l4, 'fuse4.b', features)
    x = _enlarged(trace, x, 'fuse4', features, areas[1])
    for index, (level, area) in enumerate(((l3, areas[2]), (l2, areas[3]), (l1, areas[4]))):
        name = f'fuse{3 - index}'
        x = trace.epilogue([_residual(trace, level, f'{name}.a', features), x])
        x = _enlarged(trace, _residual(trace, x, f'{name}.b', features), name, features, area)
    x = trace.product(x, 'output1', features, features // 2, 3)
    pixels = frames * size[0] * size[1]
    x = trace.pointwise([x], pixels * (features // 2), stored=size[0] * size[1] * features // 2)
    x = trace.epilogue([trace.product(x, 'output2.0', features // 2, config.dpt_hidden, 3)])
    raw = trace.product(x, 'output2.2', config.dpt_hidden, 2)
    return trace.work([trace.pointwise([raw], pixels) for _ in range(2)])


def _pyramid(trace: _Trace, config: VGGTConfig, frames: int, areas: Sequence[int]) -> list[str]:
    """Note the four taps' way to feature maps of 4, 2, 1 and 1/2 times the patches' grid."""
    coarse, patches = areas[:2]
    levels = []
    for index, channels in enumerate(config.dpt_channels):
        tap = trace.pointwise([trace.input(2 * patches * config.width)])
        x = trace.product(tap, f'project{index}', 2 * config.width, channels)
        x = trace.pointwise([x], stored=patches // frames * channels)
        if index < 2:
            x = trace.enlarge(x, f'resize{index}', channels, 4 >> index)
        if index == 3:
            x = trace.product(x, 'resize3', channels, channels, 3, coarse * channels)
        levels.append(trace.product(x, f'level{index}', channels, config.dpt_features, 3))
    return levels


def _residual(trace: _Trace, x: str, name: str, features: int) -> str:
    positive = trace.epilogue([x])
    hidden = trace.epilogue([trace.product(positive, f'{name}1', features, features, 3)])
    return trace.epilogue([trace.product(hidden, f'{name}2', features, features, 3), positive])


def _enlarged(trace: _Trace, x: str, name: str, features: int, area: int) -> str:
    return trace.product(trace.pointwise([x], area * features), name, features, features)
