# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A PyTorch network in an engine's place, so that simulated precisions run in the same loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qvggt_ros.engine.interface import WindowOutput, check_frames
from qvggt_ros.errors import EngineError, UsageError
from qvggt_ros.vggt import VGGT

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class TorchManifest:
    """The part of a bundle's manifest that a reconstruction reads."""

    name: str
    window_frames: int
    image_width: int
    image_height: int
    patch_size: int


class TorchEngine:
    """The `Engine` protocol on a VGGT in PyTorch, float or quantised in simulation.

    Tokens and taps stay on the network's device.
    """

    def __init__(
        self,
        model: VGGT,
        window_frames: int,
        size: tuple[int, int] | None = None,
        name: str = 'torch',
    ) -> None:
        """Take a network, which is put into evaluation mode.

        Args:
            model: the network, or one with the same `encode`, `window` and `decode_depth`.
            window_frames: S, the window size that a reconstruction uses unless told otherwise.
            size: the images' height and width in pixels; the config's own if None.
            name: what the network is called in reports.

        Raises:
            UsageError: no frames, or patches do not tile the size.

        """
        if window_frames < 1:
            raise UsageError(f'window_frames {window_frames}: must be at least 1')
        config = model.config
        height, width = size or (config.pretrain_height, config.pretrain_width)
        config.grid(height, width)
        self._model = model.eval()
        self._size = (height, width)
        # Not a whole Manifest: there are no files whose digests it could hold.
        self.manifest: Any = TorchManifest(name, window_frames, width, height, config.patch_size)

    @torch.inference_mode()
    def encode(self, images: Float32Array) -> list[Tensor]:
        """Encode frames: [n, 3, H, W] float32 in [0, 1] -> n handles [P, D]."""
        if images.dtype != np.float32 or images.ndim != 4 or images.shape[1:] != (3, *self._size):
            raise EngineError(
                f'images: {images.dtype} {list(images.shape)}, must be float32 '
                f'[n, 3, {self._size[0]}, {self._size[1]}]'
            )
        # A network keeps its input's device and type, as its parameters have them.
        parameter = next(self._model.parameters())
        return list(self._model.encode(torch.from_numpy(images).to(parameter)))

    @torch.inference_mode()
    def window(self, tokens: Sequence[Tensor]) -> WindowOutput:
        """Relate the frames of a window."""
        if not tokens:
            raise EngineError('tokens: a window needs at least one frame')
        pose_enc, taps = self._model.window(torch.stack(list(tokens))[None], self._size)
        return WindowOutput(pose_enc[0].float().cpu().numpy(), [tap[0] for tap in taps])

    @torch.inference_mode()
    def depth(
        self, window: WindowOutput, frames: Sequence[int]
    ) -> tuple[Float32Array, Float32Array]:
        """Decode depth and confidence, each [k, H, W], for the chosen frames."""
        check_frames(frames, window)
        if not frames:
            empty = np.empty((0, *self._size), np.float32)
            return empty, empty.copy()
        taps = [tap[list(frames)] for tap in window.taps]
        depth, confidence = self._model.decode_depth(taps, self._size)
        return depth.float().cpu().numpy(), confidence.float().cpu().numpy()
