# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Networks and bundles small enough for tests, with weights that leave no part idle."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

from qvggt_ros.export.bundle import BundleSource, write_bundle
from qvggt_ros.export.golden import noise_windows
from qvggt_ros.vggt import VGGT, VGGTConfig
from qvggt_ros.vggt.checkpoint import weights_digest

SMALL = VGGTConfig(
    pretrain_height=28,
    pretrain_width=35,
    patch_size=7,
    width=32,
    heads=2,
    encoder_depth=1,
    aggregator_depth=4,
    taps=(0, 1, 2, 3),
    dpt_features=16,
    dpt_channels=(8, 12, 16, 20),
    dpt_hidden=8,
    camera_depth=1,
    camera_heads=2,
    camera_iterations=2,
    point_head=False,
    track_head=False,
)
SMALL_SIZE = (28, 35)  # height, width
SMALL_FRAMES = 3


def lively(config: VGGTConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> VGGT:
    """Return a network whose every weight matters: gains near 1, no LayerScale near 0."""
    model = VGGT(config).to(dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(dtype)
            if key.endswith('gamma'):
                parameter.copy_(0.3 + 0.05 * noise)
            elif key.endswith('weight') and parameter.ndim == 1:
                parameter.copy_(1 + 0.1 * noise)
            elif key.endswith('weight'):
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.2 * noise)
    return model


@lru_cache(maxsize=1)
def small_bundle() -> Path:
    """Return the folder of a bundle of `lively(SMALL)`, made once per test process: copy it."""
    model = lively(SMALL)
    root = Path(tempfile.mkdtemp(prefix='qvggt_test_'))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    write_bundle(
        model,
        root / 'small',
        BundleSource('small', 'random', weights_digest(model)),
        noise_windows(2, SMALL_FRAMES, SMALL_SIZE, seed=1),
    )
    return root / 'small'
