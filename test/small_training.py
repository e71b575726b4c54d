# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A training run small enough for tests: a tiny network on tiny pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qvggt_ros.synthetic.seeds import training_seeds
from qvggt_ros.synthetic.sequences import render_batch
from qvggt_ros.synthetic.train_config import CURRICULUM, TrainConfig
from qvggt_ros.synthetic.window_source import Rendered
from qvggt_ros.synthetic.windows import training_motion
from qvggt_ros.vggt import VGGTConfig

TINY_MODEL = VGGTConfig(
    pretrain_height=28,
    pretrain_width=42,
    width=32,
    heads=2,
    encoder_depth=1,
    aggregator_depth=4,
    taps=(0, 1, 2, 3),
    dpt_features=8,
    dpt_channels=(8, 8, 8, 8),
    dpt_hidden=8,
    camera_depth=1,
    camera_heads=2,
    point_head=False,
    track_head=False,
)
TINY = TrainConfig(
    frames_per_step=8,
    warmup_steps=2,
    ring_sequences=8,
    sequence_frames=4,
    render_batch=4,
    matching_blocks=(0, 1),
    curriculum=(replace(CURRICULUM[0], until_windows=2**62, frames=(2, 3)),),
)


@dataclass(frozen=True)
class ShortConfig(TrainConfig):
    """The real one, but with a few windows to validate on."""

    validation_windows: int = 8


def render(first: int, count: int, frames: int, most_motion: float) -> Rendered:
    seeds = training_seeds(first, count)
    batch = render_batch(seeds, frames, 42, 28, motion=training_motion(most_motion))
    return batch.images, batch.depth_m, batch.camera_from_world, batch.intrinsics
