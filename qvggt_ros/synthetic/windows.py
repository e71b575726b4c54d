# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which motion the windows have that accuracy is measured on, and trained for."""

from __future__ import annotations

from qvggt_ros.synthetic.motion import KINDS, MotionConfig

# No standstill: a pair of frames without a baseline has no direction of translation, and the
# published metric counts it as missed whatever the network says. From a fifth of the largest
# motion up: below that the parallax is less than a pixel at the demo model's image size.
_TEST_WEIGHTS = {
    'forward': 0.25,
    'turn': 0.15,
    'sideways': 0.1,
    'stop': 0.0,
    'shake': 0.15,
    'orbit': 0.15,
    'random': 0.2,
    'arc': 0.0,
}
WINDOW_MOTION = MotionConfig(weights=tuple(_TEST_WEIGHTS[kind] for kind in KINDS), least=0.2)

# A robot drives and turns at once. Trained on either alone, the network took every turn for one in
# place: on drives the steps came out at 0.6 of their length.
_TRAINING_WEIGHTS = {
    'forward': 0.2,
    'turn': 0.1,
    'sideways': 0.1,
    'stop': 0.0,
    'shake': 0.15,
    'orbit': 0.1,
    'random': 0.15,
    'arc': 0.2,
}


# A robot at 10 frames a second moves less from frame to frame than most test windows do: training
# goes down to a hundredth of the largest motion and has more of the gentle than of the wild.
_TRAINING_LEAST = 0.01


def training_motion(most: float) -> MotionConfig:
    """Return the motion of training sequences, up to `most` of the largest; order is natural."""
    return MotionConfig(
        weights=tuple(_TRAINING_WEIGHTS[kind] for kind in KINDS),
        least=min(_TRAINING_LEAST, most),
        most=most,
        gentle=True,
        shuffled=0.0,
    )
