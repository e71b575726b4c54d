# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Everything about a training run that can be chosen, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field

from qvggt_ros.synthetic.losses import LossWeights


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum, until a number of windows has been seen.

    Attributes:
        until_windows: the stage's end, counted in windows from the start of training.
        frames: window sizes, drawn with equal chance per step.
        most_motion: the largest motion of a rendered sequence, 1 = that of the test windows.
        shuffled_share: share of the windows whose frames are in random order.

    """

    until_windows: int
    frames: tuple[int, ...]
    most_motion: float
    shuffled_share: float


# Two frames first: matching is learned there and carried over to more. Small motion first, as one
# would think, teaches the attention to look at the same place and nothing else.
CURRICULUM = (
    Stage(until_windows=40_000, frames=(2,), most_motion=1.0, shuffled_share=0.0),
    Stage(until_windows=80_000, frames=(2, 3), most_motion=1.0, shuffled_share=0.1),
    Stage(until_windows=134_000, frames=(2, 4), most_motion=1.0, shuffled_share=0.2),
    Stage(until_windows=2**62, frames=(2, 3, 4, 4, 6, 8), most_motion=1.0, shuffled_share=0.2),
)


@dataclass(frozen=True)
class TrainConfig:
    """A training run; the defaults are for two CPU cores."""

    seed: int = 0
    frames_per_step: int = 64  # of each worker; windows per step = this / window size
    depth_share: float = 0.25  # of a step's frames: those whose depth is decoded and scored
    learning_rate: float = 1e-3  # AdamW's; Muon's is twice that
    warmup_steps: int = 500
    weight_decay: float = 0.03
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    # Rendered sequences are kept in a ring and used several times before they are replaced.
    ring_sequences: int = 1024
    sequence_frames: int = 8
    render_batch: int = 16
    uses_per_window: float = 8.0
    # Aggregator blocks whose global attention is taught to match, and with which head.
    matching_blocks: tuple[int, ...] = (1, 2, 3)
    matching_head: int = 0
    loss: LossWeights = field(default_factory=LossWeights)
    curriculum: tuple[Stage, ...] = CURRICULUM
    checkpoint_seconds: float = 50.0
    validation_seconds: float = 600.0
    validation_windows: int = 96

    @property
    def muon_learning_rate(self) -> float:
        """Of the matrices that Muon trains."""
        return 2 * self.learning_rate

    def stage(self, windows_seen: int) -> Stage:
        """Return the curriculum's stage after so many windows."""
        return next(s for s in self.curriculum if windows_seen < s.until_windows)
