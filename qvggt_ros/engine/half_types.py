# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The half types that built engines multiply in, and how far their rounding may lead."""

from __future__ import annotations

from qvggt_ros.engine.manifest import GoldenInfo

# What rounding to a half type may add to a bundle's tolerances, by golden figure. Three times what
# the demo's float network was measured to do when the graphs that TensorRT is given round to that
# type, on a CPU, with products summed in float32: of the poses 0.0003 and 0.0007 at most, of the
# depths 0.0008 and 0.0069, of their confidence 0.0020 and 0.0135 (float16, bfloat16). Nobody has
# measured it on a GPU, or on a network as deep as VGGT-1B.
HALF_ROUNDING = {
    'float16': {
        'pose_enc': 0.001,
        'pose_enc_mean': 0.0004,
        'depth': 0.003,
        'depth_mean': 0.0005,
        'depth_conf': 0.006,
        'depth_conf_mean': 0.001,
    },
    'bfloat16': {
        'pose_enc': 0.002,
        'pose_enc_mean': 0.001,
        'depth': 0.021,
        'depth_mean': 0.004,
        'depth_conf': 0.04,
        'depth_conf_mean': 0.006,
    },
}
HALF_TYPES = tuple(HALF_ROUNDING)


def tolerances_in(half_type: str, golden: GoldenInfo) -> dict[str, float]:
    """Return the largest golden figures that engines of a half type may have."""
    added = HALF_ROUNDING[half_type]
    return {figure: allowed + added[figure] for figure, allowed in golden.tolerances.items()}
