# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Run a network or an engine over windows with known cameras and depth, and score it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.errors import UsageError
from qvggt_ros.evaluation.metrics import AccuracyAccumulator
from qvggt_ros.reconstruction.decode import decode_pose_encoding
from qvggt_ros.synthetic.seeds import TEST_SEEDS_FROM

if TYPE_CHECKING:
    from qvggt_ros.engine import Engine
    from qvggt_ros.vggt import VGGT

Float32Array = NDArray[np.float32]
UInt8Array = NDArray[np.uint8]

SYNTHETIC_BATCH = 20


@dataclass(frozen=True)
class WindowBatch:
    """b windows of s frames with their truth.

    Attributes:
        images: uint8 [b, s, 3, H, W], RGB.
        camera_from_world: [b, s, 4, 4], any scale.
        depth: [b, s, H, W] z-depth; 0 where unknown. None if there is no true depth at all.

    """

    images: UInt8Array
    camera_from_world: NDArray[np.float64]
    depth: Float32Array | None


# uint8 images [b, s, 3, H, W] -> pose encoding [b, s, 9] and z-depth [b, s, H, W]
Predict = Callable[[UInt8Array], tuple[Float32Array, Float32Array]]


def evaluate(
    predict: Predict,
    batches: Iterable[WindowBatch],
    progress: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Score predictions; the keys are those of `AccuracyAccumulator.summary`.

    Args:
        predict: the network or engine.
        batches: windows with truth.
        progress: called with the number of windows done.

    """
    accumulator = AccuracyAccumulator()
    done = 0
    for batch in batches:
        pose_enc, depth = predict(batch.images)
        height, width = batch.images.shape[-2:]
        for index in range(len(batch.images)):
            estimated, _ = decode_pose_encoding(pose_enc[index], width, height)
            truth = None if batch.depth is None else batch.depth[index]
            accumulator.add(estimated, batch.camera_from_world[index], depth[index], truth)
        done += len(batch.images)
        if progress:
            progress(done)
    return accumulator.summary()


def torch_predictor(model: VGGT, device: str = 'cpu') -> Predict:
    """Predict with the PyTorch network in float32."""
    import torch

    model = model.to(device).eval()

    @torch.inference_mode()
    def predict(images: UInt8Array) -> tuple[Float32Array, Float32Array]:
        out = model(torch.from_numpy(images).to(device).float() / 255)
        return out['pose_enc'].cpu().numpy(), out['depth'][..., 0].cpu().numpy()

    return predict


def engine_predictor(engine: Engine) -> Predict:
    """Predict with an engine, window by window, as the node does."""

    def predict(images: UInt8Array) -> tuple[Float32Array, Float32Array]:
        poses, depths = [], []
        for window in images:
            tokens = engine.encode(window.astype(np.float32) / 255)
            output = engine.window(tokens)
            depth, _ = engine.depth(output, range(len(window)))
            poses.append(output.pose_enc)
            depths.append(depth)
        return np.stack(poses), np.stack(depths)

    return predict


def synthetic_windows(
    seed: int, windows: int, frames: int, width: int, height: int
) -> Iterator[WindowBatch]:
    """Render test windows of the rooms `seed`, `seed` + 1, ...

    Raises:
        UsageError: the seed is not one of those that are kept for tests.

    """
    from qvggt_ros.synthetic.sequences import render_batch
    from qvggt_ros.synthetic.windows import WINDOW_MOTION

    if seed < TEST_SEEDS_FROM:
        raise UsageError(
            f'synthetic:{seed}: test rooms have seeds from {TEST_SEEDS_FROM} up; '
            'the others may have been trained on'
        )
    for start in range(0, windows, SYNTHETIC_BATCH):
        count = min(SYNTHETIC_BATCH, windows - start)
        rendered = render_batch(
            range(seed + start, seed + start + count), frames, width, height, motion=WINDOW_MOTION
        )
        yield WindowBatch(
            images=rendered.images.numpy(),
            camera_from_world=rendered.camera_from_world.double().numpy(),
            depth=rendered.depth_m.numpy(),
        )
