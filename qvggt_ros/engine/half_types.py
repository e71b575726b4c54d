# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The half types that built engines multiply in, and how far their rounding may lead."""

from __future__ import annotations

from qvggt_ros.engine.manifest import GoldenInfo

# What rounding to a half type may add to a bundle's tolerances, by golden figure: three times the
# worse of what was measured on two float networks, the demo's and a small one with random weights,
# when the graphs that TensorRT is given round to that type, on a CPU, with products summed in
# float32 (test_export_tensorrt_graph.py; docs/engines.md has the figures). Nobody has measured it
# on a GPU, or on a network as deep as VGGT-1B.
HALF_ROUNDING = {
    'float16': {
        'pose_enc': 0.003,
        'pose_enc_mean': 0.002,
        'depth': 0.006,
        'depth_mean': 0.0015,
        'depth_conf': 0.006,
        'depth_conf_mean': 0.001,
    },
    'bfloat16': {
        'pose_enc': 0.016,
        'pose_enc_mean': 0.013,
        'depth': 0.03,
        'depth_mean': 0.012,
        'depth_conf': 0.04,
        'depth_conf_mean': 0.006,
    },
}
HALF_TYPES = tuple(HALF_ROUNDING)


def tolerances_in(half_type: str, golden: GoldenInfo) -> dict[str, float]:
    """Return the largest golden figures that engines of a half type may have."""
    added = HALF_ROUNDING[half_type]
    return {figure: allowed + added[figure] for figure, allowed in golden.tolerances.items()}
