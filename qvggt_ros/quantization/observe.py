# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a layer's input looks like over the calibration windows, in bounded memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from qvggt_ros.errors import CalibrationError
from qvggt_ros.quantization.layers import QuantisedLayer
from qvggt_ros.quantization.walk import Step

# Sampled rows per layer, and which share of the weight the special tokens get among them: by
# their number they would count for almost nothing, though the camera head reads them alone.
SAMPLED_ROWS = 1024
SPECIAL_WEIGHT = 0.25


class Observer:
    """Collects a layer's inputs, after an online rotation and before smoothing.

    Attributes:
        largest: [inputs] largest magnitude of each channel.
        least: [inputs] least value of each channel.
        rows, row_weight: sampled rows [n, inputs] and how much each counts.

    """

    def __init__(self, name: str, step: Step, calls: int) -> None:
        self._name, self._step = name, step
        self._per_call = max(1, SAMPLED_ROWS // max(calls, 1))
        self._rows: list[Tensor] = []
        self._weights: list[Tensor] = []
        self._squares: Tensor | float = 0.0
        self.least = torch.zeros(0)
        self._count = 0
        self.largest = torch.zeros(0)
        self._mean_largest: Tensor | float = 0.0
        self._calls = 0

    def add(self, x: Tensor) -> None:
        """Take one input [..., inputs], or [n, inputs, h, w] of a convolution."""
        rows = x.movedim(1, -1) if x.ndim == 4 else x
        special = special_rows(rows, self._step)
        rows = rows.reshape(-1, rows.shape[-1])
        largest = rows.abs().amax(dim=0)
        if not torch.isfinite(largest).all():
            raise CalibrationError(
                f'layer {self._name}: its input is not finite on a calibration window; '
                'the network or the images are damaged'
            )
        first = not self._calls
        least = rows.amin(dim=0)
        self.least = least if first else torch.minimum(self.least, least)
        self.largest = largest if first else torch.maximum(self.largest, largest)
        self._mean_largest = self._mean_largest + largest
        self._squares = self._squares + rows.square().sum(dim=0)
        self._count += len(rows)
        self._calls += 1
        self._sample(rows, special)

    def _sample(self, rows: Tensor, special: Tensor | None) -> None:
        """Keep evenly spaced rows; a quarter of them special tokens where there are any."""
        if special is None:
            groups = [(torch.arange(len(rows)), 1.0)]
        else:
            groups = [
                (torch.nonzero(special)[:, 0], SPECIAL_WEIGHT),
                (torch.nonzero(~special)[:, 0], 1 - SPECIAL_WEIGHT),
            ]
        for index, share in groups:
            wanted = max(1, round(self._per_call * share))
            stride = max(1, len(index) // wanted)
            # Another offset each time, so that not always the same pixels are seen.
            chosen = index[(self._calls * 7) % stride :: stride][:wanted]
            self._rows.append(rows[chosen])
            self._weights.append(torch.full((len(chosen),), share / max(len(chosen), 1)))

    @property
    def rows(self) -> Tensor:
        """Sampled rows [n, inputs]."""
        return torch.cat(self._rows)

    @property
    def row_weight(self) -> Tensor:
        """How much each sampled row counts, [n]."""
        return torch.cat(self._weights)

    @property
    def typical_largest(self) -> Tensor:
        """Largest magnitude of each channel, averaged over the calls, [inputs]."""
        return torch.as_tensor(self._mean_largest) / self._calls

    @property
    def mean_square(self) -> Tensor:
        """Mean square of each channel, [inputs]."""
        return torch.as_tensor(self._squares) / self._count


@contextlib.contextmanager
def observed(
    layers: dict[str, QuantisedLayer], step: Step, calls: int
) -> Iterator[dict[str, Observer]]:
    """Watch layers for a while; `calls` is about how often each will run."""
    observers = {name: Observer(name, step, calls) for name in layers}

    def see(name: str, layer: QuantisedLayer, x: Tensor) -> None:
        observers[name].add(layer.rotated(x).detach())

    with _watched(layers, see):
        yield observers


@contextlib.contextmanager
def second_moments(layers: dict[str, QuantisedLayer], step: Step) -> Iterator[dict[str, Tensor]]:
    """Sum x x^T over the inputs that layers really multiply, [inputs, inputs] each.

    Special tokens get their share of the weight here too.
    """
    moments = {
        name: layer.weight.new_zeros(layer.inputs, layer.inputs) for name, layer in layers.items()
    }

    def see(name: str, layer: QuantisedLayer, x: Tensor) -> None:
        x = layer.quantised_input(layer.prepared(x)).detach()
        special = special_rows(x, step)
        rows = x.reshape(-1, x.shape[-1])
        if special is None:
            moments[name] += rows.T @ rows / len(rows)
            return
        for chosen, share in ((special, SPECIAL_WEIGHT), (~special, 1 - SPECIAL_WEIGHT)):
            some = rows[chosen]
            moments[name] += share * (some.T @ some) / len(some)

    with _watched(layers, see):
        yield moments


@contextlib.contextmanager
def _watched(
    layers: dict[str, QuantisedLayer], see: Callable[[str, QuantisedLayer, Tensor], None]
) -> Iterator[None]:
    """Call `see(name, layer, input)` before each run of a layer, for a while."""

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            see(name, cast(QuantisedLayer, layer), inputs[0])

        return hook

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def special_rows(rows: Tensor, step: Step) -> Tensor | None:
    """Return which of the flattened rows of [n, tokens, inputs] are special tokens, or None."""
    if step.special is None or rows.ndim != 3 or rows.shape[1] % step.frame_tokens:
        return None
    place = torch.arange(rows.shape[1]) % step.frame_tokens
    return (place < step.special).repeat(rows.shape[0])
