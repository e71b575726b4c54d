# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How many of PyTorch's threads a network is worth."""

from __future__ import annotations

import torch

from qvggt_ros.vggt.config import VGGTConfig

# Channels below which operators are over before a second thread has begun.
NARROW = 512


def fit_threads(config: VGGTConfig) -> None:
    """Let this process compute a narrow network with one thread; leave wide ones all of them.

    The demo model takes a fifth longer with two threads than with one, and many times as long
    where something else runs on the second core (docs/quantization.md).
    """
    if config.width < NARROW:
        torch.set_num_threads(1)
