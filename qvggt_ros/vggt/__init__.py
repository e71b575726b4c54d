# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The network in PyTorch: configuration, layers, heads, checkpoints. Offline."""

from qvggt_ros.vggt.aggregator import WindowTrace
from qvggt_ros.vggt.checkpoint import (
    load_checkpoint,
    load_model,
    read_config,
    save_checkpoint,
    weights_digest,
)
from qvggt_ros.vggt.config import VGGTConfig
from qvggt_ros.vggt.model import VGGT
from qvggt_ros.vggt.threads import fit_threads

__all__ = [
    'VGGT',
    'VGGTConfig',
    'WindowTrace',
    'fit_threads',
    'load_checkpoint',
    'load_model',
    'read_config',
    'save_checkpoint',
    'weights_digest',
]
