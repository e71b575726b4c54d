# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A training run on disk: one safetensors file that appears whole or not at all.

It holds weights, their moving average, the optimiser's moments and the counters, so that a run
goes on with the step at which it was saved.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from qvggt_ros.errors import CheckpointError
from qvggt_ros.files import whole_file


@dataclass(frozen=True)
class Progress:
    """Counters of a run, summed over its sessions.

    Attributes:
        step: of the optimiser.
        windows: seen, by the weights that the run began with too.
        sequences: rendered by each process.
        seconds: of training.
        windows_before: those that the first weights had seen before this run.

    """

    step: int = 0
    windows: int = 0
    sequences: int = 0
    seconds: float = 0.0
    windows_before: int = 0


def save_run(
    path: Path,
    tensors: dict[str, dict[str, Tensor]],
    progress: Progress,
    model_config: dict[str, Any],
) -> None:
    """Write groups of tensors and the counters; replaces an older file in one step.

    Raises:
        CheckpointError: the file cannot be written.

    """
    flat = {
        f'{group}/{name}': tensor.detach().contiguous().cpu()
        for group, named in tensors.items()
        for name, tensor in named.items()
    }
    metadata = {
        'progress': json.dumps(asdict(progress)),
        'model_config': json.dumps(model_config),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            save_file(flat, file, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f'{path}: cannot be written: {error}') from error


def load_run(path: Path) -> tuple[dict[str, dict[str, Tensor]], Progress, dict[str, Any]]:
    """Read what `save_run` wrote: groups of tensors, counters, model configuration.

    Raises:
        CheckpointError: no such file, or not a run.

    """
    groups: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework='pt') as file:
            metadata = file.metadata() or {}
            for key in file.keys():  # noqa: SIM118 (not a dict)
                group, _, name = key.partition('/')
                groups.setdefault(group, {})[name] = file.get_tensor(key)
        progress = Progress(**json.loads(metadata['progress']))
        return groups, progress, json.loads(metadata['model_config'])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f'{path}: not a training checkpoint of this project ({error})'
        ) from error


def optimizer_tensors(
    optimizers: Sequence[torch.optim.Optimizer], names: dict[int, str]
) -> dict[str, Tensor]:
    """Moments of the optimisers by parameter name, for `save_run`."""
    tensors: dict[str, Tensor] = {}
    for parameter, optimizer in _parameters(optimizers):
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f'{names[id(parameter)]}:{key}'] = torch.as_tensor(value)
    return tensors


def restore_optimizer(
    optimizers: Sequence[torch.optim.Optimizer], names: dict[int, str], tensors: dict[str, Tensor]
) -> None:
    """Put the moments back; parameters without saved moments start afresh."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, part = key.rpartition(':')
        by_name.setdefault(name, {})[part] = value
    for parameter, optimizer in _parameters(optimizers):
        if state := by_name.get(names[id(parameter)]):
            optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in state.items()}


def _parameters(
    optimizers: Sequence[torch.optim.Optimizer],
) -> Iterator[tuple[nn.Parameter, torch.optim.Optimizer]]:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group['params']:
                yield parameter, optimizer
