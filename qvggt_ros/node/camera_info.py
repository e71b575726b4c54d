# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The latest calibration, if one has come and fits. Nothing ever waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qvggt_ros.reconstruction.geometry import Float64Array


class CalibrationCache:
    """Keeps the latest usable `CameraInfo`; says once what is wrong with one that is not."""

    def __init__(self, warn: Callable[[str], object]) -> None:
        self._warn = warn
        self._warned: set[str] = set()
        self._intrinsics: Float64Array | None = None
        self._size = (0, 0)

    def update(self, message: Any) -> None:
        """Take in a `sensor_msgs/CameraInfo`."""
        k = np.array(message.k, dtype=np.float64).reshape(3, 3)
        if not (np.isfinite(k).all() and k[0, 0] > 0 and k[1, 1] > 0):
            self._warn_once('camera_info has no usable K: intrinsics are predicted instead')
            return
        if any(value != 0 for value in message.d):
            self._warn_once(
                'camera_info has distortion: images are taken as they come, without undistortion; '
                'feed rectified ones (image_rect)'
            )
        self._intrinsics, self._size = k, (message.width, message.height)

    def intrinsics_for(self, width: int, height: int) -> Float64Array | None:
        """Return K [3, 3] for an image of this size, None where none has come or fits."""
        if self._intrinsics is None:
            return None
        if self._size != (width, height):
            self._warn_once(
                f'camera_info is for {self._size[0]}x{self._size[1]}, images are '
                f'{width}x{height}: intrinsics are predicted instead'
            )
            return None
        return self._intrinsics

    def clear(self) -> None:
        """Forget the calibration and the warnings given."""
        self._intrinsics = None
        self._warned.clear()

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self._warn(text)
