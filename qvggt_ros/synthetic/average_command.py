# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt synth average`: the mean of models that one training passed through.

Where each is the end of a cycle of the learning rate, the mean is often better than any of them
(stochastic weight averaging: Izmailov et al., UAI 2018). Models of different trainings have no
useful mean.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from qvggt_ros.engine.manifest import file_digest
from qvggt_ros.errors import CheckpointError, UsageError
from qvggt_ros.vggt import VGGT, load_model
from qvggt_ros.vggt.checkpoint import save_checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('models', type=Path, nargs='+', metavar='MODEL', help='two or more')
    parser.add_argument('--out', type=Path, required=True, help='the mean (.safetensors)')


def run(args: argparse.Namespace) -> int:
    """Write the mean, and in the file what it is the mean of."""
    if len(args.models) < 2:
        raise UsageError('synth average: one model has no mean; name two or more')
    digests = [file_digest(path) for path in args.models]
    save_checkpoint(args.out, mean_model(args.models), torch.float16, averaged_from=digests)
    print(args.out)
    return 0


def mean_model(paths: list[Path]) -> VGGT:
    """Return the network whose weights are the mean of others'.

    Raises:
        CheckpointError: a file is missing or damaged, or its network has other sizes.

    """
    models = [load_model(path) for path in paths]
    for path, model in zip(paths, models, strict=True):
        if model.config != models[0].config:
            raise CheckpointError(f'{path}: a network of other sizes than that of {paths[0]}')
    states = [model.state_dict() for model in models]
    mean = {
        name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(value.dtype)
        for name, value in states[0].items()
    }
    models[0].load_state_dict(mean)
    return models[0]
