# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which optimiser trains which weights."""

from __future__ import annotations

import re

import torch
from torch import nn

from qvggt_ros.synthetic.train_config import TrainConfig

# The matrices that Muon trains.
_MUON_BLOCKS = re.compile(r'model\.aggregator\..*blocks\.\d+\.(attn|mlp)\.')


def make_optimizers(
    named: list[tuple[str, nn.Parameter]], config: TrainConfig, muon_class: type[torch.optim.Muon]
) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the aggregator's matrices, AdamW for everything else.

    Vectors, embeddings and special tokens are not decayed.
    """
    muon = [p for name, p in named if _MUON_BLOCKS.match(name) and p.ndim == 2]
    chosen = {id(p) for p in muon}
    rest = [p for _, p in named if id(p) not in chosen]
    matrices = [p for p in rest if p.ndim >= 2 and p.shape[0] > 1]
    others = [p for p in rest if not (p.ndim >= 2 and p.shape[0] > 1)]
    optimizers: tuple[torch.optim.Optimizer, ...] = (
        muon_class(
            muon,
            lr=config.muon_learning_rate,
            weight_decay=config.weight_decay,
            adjust_lr_fn='match_rms_adamw',
        ),
        torch.optim.AdamW(
            [
                {'params': matrices, 'weight_decay': config.weight_decay},
                {'params': others, 'weight_decay': 0.0},
            ],
            lr=config.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        ),
    )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group['initial_lr'] = group['lr']
    return optimizers
