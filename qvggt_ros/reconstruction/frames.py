# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What goes into the reconstruction and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.reconstruction.cloud import PointCloud
from qvggt_ros.reconstruction.geometry import Float64Array

STAGES = ('preprocess', 'encoder', 'window', 'depth', 'decode', 'align', 'points')


@dataclass(frozen=True)
class Frame:
    """One camera image.

    Attributes:
        image: [h, w, 3] uint8 RGB, pinhole, undistorted.
        stamp_ns: of the input, passed through untouched.
        frame_id: of the input, passed through untouched.
        intrinsics: [3, 3] of this image (OpenCV pixel centres), None = the network's own.

    """

    image: NDArray[np.uint8]
    stamp_ns: int
    frame_id: str
    intrinsics: Float64Array | None = None


@dataclass(frozen=True)
class FramePose:
    """Where a frame was taken.

    Attributes:
        stamp_ns, frame_id: the input's.
        map_from_camera: [4, 4] of the optical frame, in a map with z up, map units.
        intrinsics: [3, 3] of the camera's image, calibrated or predicted.

    """

    stamp_ns: int
    frame_id: str
    map_from_camera: Float64Array
    intrinsics: Float64Array


@dataclass(frozen=True)
class WindowResult:
    """What one window adds.

    Attributes:
        index: of the window since the last reset, from 0.
        poses: of the new frames, oldest first: over all windows, one for each frame.
        cloud: points of the new frames, in the map.
        scale: map units per unit of this window; 1 for the first.
        residual, inlier_share: of the alignment, see `Alignment`; 0 and 1 for the first window.
        median_depth: of the points that aligned the window, map units.
        notes: what was not as it should be, one line each; empty when all is well.
        stage_ms: wall time of each of STAGES since the last window.

    """

    index: int
    poses: tuple[FramePose, ...]
    cloud: PointCloud
    scale: float
    residual: float
    inlier_share: float
    median_depth: float
    notes: tuple[str, ...]
    stage_ms: dict[str, float]
