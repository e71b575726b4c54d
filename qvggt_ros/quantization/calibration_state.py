# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Finished steps of a calibration on disk, so that an interrupted one goes on."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from qvggt_ros.errors import CalibrationError
from qvggt_ros.files import whole_file
from qvggt_ros.quantization.layers import QuantisedLayer

KEPT = ('smooth', 'weight_clip', 'activation_step', 'activation_offset')
OPTIONAL = ('rounded', 'bias')


class CalibrationState:
    """One small file per finished step in a folder of its own; None keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def keep(self, step: str, layers: dict[str, QuantisedLayer]) -> None:
        """Write a step's factors and ranges; the file appears whole or not at all."""
        if self._folder is None:
            return
        tensors = {
            f'{name}:{part}': getattr(layer, part).detach().clone().contiguous()
            for name, layer in layers.items()
            for part in (*KEPT, *OPTIONAL)
            if getattr(layer, part) is not None
        }
        path = self._path(step)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as partial:
                save_file(tensors, partial)
        except (OSError, SafetensorError) as error:
            raise CalibrationError(f'{path}: cannot be written: {error}') from error

    def restore(self, step: str, layers: dict[str, QuantisedLayer]) -> bool:
        """Fill in a step's factors and ranges; False where it has not been finished."""
        if self._folder is None or not layers or not self._path(step).is_file():
            return False
        try:
            tensors = load_file(self._path(step))
        except (OSError, SafetensorError):
            return False  # damaged: the step is calibrated again
        if not all(_fits(layer, name, tensors) for name, layer in layers.items()):
            return False
        for name, layer in layers.items():
            for part in (*KEPT, 'rounded'):
                setattr(layer, part, tensors[f'{name}:{part}'])
            if layer.bias is not None:
                layer.bias.data.copy_(tensors[f'{name}:bias'])
        return True

    def _path(self, step: str) -> Path:
        assert self._folder is not None
        return self._folder / f'{step}.safetensors'


def _fits(layer: QuantisedLayer, name: str, tensors: dict[str, Tensor]) -> bool:
    """Tell whether a file holds a layer's tensors, of the right shapes and finite."""
    for part in KEPT:
        found = tensors.get(f'{name}:{part}')
        if found is None or found.shape != getattr(layer, part).shape:
            return False
        if not torch.isfinite(found).all():
            return False
    rounded, bias = tensors.get(f'{name}:rounded'), tensors.get(f'{name}:bias')
    if rounded is None or rounded.dtype != torch.int8:
        return False
    if len(rounded) and rounded.shape != layer.weight.shape:
        return False
    return layer.bias is None or (bias is not None and bias.shape == layer.bias.shape)
