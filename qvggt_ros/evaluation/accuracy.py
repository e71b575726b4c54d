# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Run a network or an engine over windows with known cameras and depth, and score it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.errors import DatasetError, UsageError
from qvggt_ros.evaluation.image_folder import (
    FolderFrame,
    ImageFolder,
    open_image_folder,
    read_depth_m,
    read_rgb,
)
from qvggt_ros.evaluation.metrics import AccuracyAccumulator
from qvggt_ros.reconstruction.decode import decode_pose_encoding
from qvggt_ros.reconstruction.geometry import invert_pose
from qvggt_ros.reconstruction.preprocess import PreprocessPlan, plan_preprocess, resize_for_engine
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


def folder_windows(
    path: Path, windows: int, frames: int, step: int, width: int, height: int
) -> Iterator[WindowBatch]:
    """Cut windows from an image folder with poses, evenly over its length.

    Args:
        path: the folder; see `image_folder` for the layouts.
        windows: at most this many.
        frames: per window.
        step: a window takes every step-th image.
        width: of the network's image, pixels; images are cropped to it as the node does.
        height: of the network's image, pixels.

    Raises:
        DatasetError: not such a folder, no poses, or too short for one window.

    """
    folder = open_image_folder(path)
    posed = [frame for frame in folder.frames if frame.world_from_camera is not None]
    last_start = len(posed) - (frames - 1) * step - 1
    if last_start < 0:
        raise DatasetError(
            f'{path}: {len(posed)} images with poses are too few for a window of {frames} at '
            f'every {step}th'
        )
    plan = plan_preprocess(folder.width, folder.height, width, height)
    count = min(windows, last_start + 1)
    for start in np.linspace(0, last_start, count).astype(int).tolist():
        chosen = posed[start : start + (frames - 1) * step + 1 : step]
        yield _folder_window(folder, chosen, plan)


def _folder_window(
    folder: ImageFolder, frames: Sequence[FolderFrame], plan: PreprocessPlan
) -> WindowBatch:
    images = [resize_for_engine(read_rgb(frame), plan).transpose(2, 0, 1) for frame in frames]
    poses = [invert_pose(np.asarray(frame.world_from_camera)) for frame in frames]
    depths = None
    if all(frame.depth_path is not None for frame in frames):
        depths = np.stack([_depth_for_engine(read_depth_m(folder, f), plan) for f in frames])[None]
    return WindowBatch(np.stack(images)[None], np.stack(poses)[None], depths)


def _depth_for_engine(depth_m: Float32Array, plan: PreprocessPlan) -> Float32Array:
    """Take the nearest depth for each pixel of the engine's image; 0 outside the camera's."""
    v, u = np.mgrid[0 : plan.engine_height, 0 : plan.engine_width]
    pixels = plan.image_from_engine_pixels(np.stack([u, v], axis=-1).reshape(-1, 2))
    column, row = np.rint(pixels).astype(int).T
    inside = (column >= 0) & (column < plan.image_width) & (row >= 0) & (row < plan.image_height)
    depth = np.zeros(len(pixels), np.float32)
    depth[inside] = depth_m[row[inside], column[inside]]
    return depth.reshape(plan.engine_height, plan.engine_width)
