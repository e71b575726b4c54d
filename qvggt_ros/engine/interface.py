# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What every engine offers: three graphs, run in the order encoder, window, depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.engine.manifest import Manifest
from qvggt_ros.errors import EngineError

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class WindowOutput:
    """What the window graph returns for `s` frames.

    Attributes:
        pose_enc: [s, 9] translation (3), quaternion x y z w (4), field of view h, w in radians;
            camera-from-world, the world being the camera of the window's first frame.
        taps: what the depth graph needs, owned by the engine and opaque to the caller (it may
            live on the device); valid until the next call of `window`.

    """

    pose_enc: Float32Array
    taps: Any


class Engine(Protocol):
    """A loaded bundle. Not thread-safe: one thread makes it and uses it."""

    manifest: Manifest

    def encode(self, images: Float32Array) -> list[Any]:
        """Encode frames, each by itself.

        Args:
            images: [n, 3, H, W] in [0, 1], RGB, of the bundle's size.

        Returns:
            n token handles, opaque to the caller, that stay valid while they are held.

        """

    def window(self, tokens: Sequence[Any]) -> WindowOutput:
        """Relate the frames of a window, given their token handles, first frame = reference."""

    def depth(
        self, window: WindowOutput, frames: Sequence[int]
    ) -> tuple[Float32Array, Float32Array]:
        """Decode depth for the chosen frames of the window.

        Returns:
            depth [k, H, W] (z-depth in the window's own scale) and its confidence [k, H, W] >= 1.

        """


def check_frames(frames: Sequence[int], window: WindowOutput) -> None:
    """Refuse frame numbers that a window does not have (EngineError)."""
    count = len(window.pose_enc)
    for frame in frames:
        if not 0 <= frame < count:
            raise EngineError(f'frame {frame}: the window has frames 0 to {count - 1}')


def check_images(images: Float32Array, manifest: Manifest) -> None:
    """Refuse what are not n >= 1 float32 images of the bundle's size (EngineError)."""
    if not isinstance(images, np.ndarray) or images.dtype != np.float32:
        kind = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
        raise EngineError(f'images: must be a float32 array, not {kind}')
    size = (3, manifest.image_height, manifest.image_width)
    if images.ndim != 4 or images.shape[1:] != size or not len(images):
        raise EngineError(
            f'images: shape {list(images.shape)} is not [n, {", ".join(map(str, size))}] with '
            'n >= 1'
        )
