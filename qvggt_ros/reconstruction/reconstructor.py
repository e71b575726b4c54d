# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Frames in, windows out: poses and points in one map.

Each frame is encoded once, when it comes. A window of the latest frames runs when enough new ones
are there; depth is decoded for the new frames and for a few shared ones, the anchors, by which the
window is brought into the map. A frame's pose is final when it is first given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.errors import ImageError, ReconstructionError, UsageError
from qvggt_ros.reconstruction.align import Alignment, AlignmentConfig, SharedFrame, align_window
from qvggt_ros.reconstruction.cloud import (
    BoolArray,
    Float32Array,
    PointCloud,
    confidence_floor,
    edge_mask,
    grid_step,
)
from qvggt_ros.reconstruction.decode import clamp_fov, decode_pose_encoding, unproject_pixels
from qvggt_ros.reconstruction.frames import STAGES, Frame, FramePose, WindowResult
from qvggt_ros.reconstruction.geometry import (
    BODY_FROM_OPTICAL,
    Float64Array,
    Sim3,
    invert_pose,
)
from qvggt_ros.reconstruction.preprocess import (
    PreprocessMode,
    PreprocessPlan,
    network_input,
    plan_preprocess,
    resize_for_engine,
)
from qvggt_ros.reconstruction.timing import StageTimer
from qvggt_ros.reconstruction.windows import (
    AnchorSamples,
    SlidingWindow,
    WindowFrame,
    choose_anchors,
)

if TYPE_CHECKING:
    from qvggt_ros.engine.interface import Engine

__all__ = [
    'STAGES',
    'Frame',
    'FramePose',
    'ReconstructionConfig',
    'Reconstructor',
    'WindowResult',
]


@dataclass(frozen=True)
class ReconstructionConfig:
    """Everything that can be chosen about the reconstruction."""

    window_frames: int = 0  # S; 0 = the bundle's
    stride: int = 0  # new frames per window; 0 = half the window
    anchor_frames: int = 2  # shared frames whose depth ties a window to the map
    alternate_order: bool = True  # every second window runs backwards, see `_order`
    preprocess_mode: PreprocessMode = 'crop'
    max_points: int = 100_000  # per window; the pixel grid is thinned to hold it
    drop_confidence_share: float = 0.2  # of each frame's pixels, the least confident
    min_confidence: float = 1.0  # the network's lowest is 1
    depth_edge_ratio: float = 0.1  # bend of inverse depth that makes an edge; 0 = keep edges
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)


@dataclass(frozen=True)
class _DecodedWindow:
    """A window's cameras and the depth of the frames that were decoded, by index in the window."""

    window_from_camera: Float64Array
    intrinsics: Float64Array
    depth: dict[int, Float32Array]
    confidence: dict[int, Float32Array]
    valid: dict[int, BoolArray]

    def points(self, index: int, u: NDArray[np.intp], v: NDArray[np.intp]) -> Float64Array:
        """Return the window-frame points [n, 3] of chosen pixels of one frame."""
        camera_from_window = invert_pose(self.window_from_camera[index])
        depth = self.depth[index][v, u]
        return unproject_pixels(u, v, depth, self.intrinsics[index], camera_from_window)


class Reconstructor:
    """Turns a stream of frames into poses and points. One thread uses it, the engine's.

    After an exception, `reset` before the next frame.
    """

    def __init__(self, engine: Engine, config: ReconstructionConfig | None = None) -> None:
        """Prepare for a stream.

        Raises:
            UsageError: window, stride or anchors do not fit together.

        """
        self.config = config or ReconstructionConfig()
        self._engine = engine
        manifest = engine.manifest
        self._width, self._height = manifest.image_width, manifest.image_height
        self._patch_size = manifest.patch_size
        size = self.config.window_frames or manifest.window_frames
        self._window = SlidingWindow(size, self.config.stride or max(1, size // 2))
        if self.config.anchor_frames < 1:
            raise UsageError(f'anchor_frames {self.config.anchor_frames}: must be at least 1')
        step = grid_step(
            self._width, self._height, self.config.anchor_frames, self.config.alignment.max_points
        )
        self._sample_v, self._sample_u = self._pixel_grid(step)
        self.reset()

    @property
    def window_frames(self) -> int:
        """Frames per window."""
        return self._window.size

    @property
    def stride(self) -> int:
        """New frames per window."""
        return self._window.stride

    @property
    def pending(self) -> int:
        """How many frames await their pose."""
        return self._window.pending

    def reset(self) -> None:
        """Forget all frames; the next one starts a new map."""
        self._window.clear()
        self._plan: PreprocessPlan | None = None
        self._index = 0
        self._timer = StageTimer()

    def add_frame(self, frame: Frame) -> WindowResult | None:
        """Take in a frame; return a window's result when one became due.

        Raises:
            ImageError: not uint8 RGB, or not of the size of the frames before.
            ReconstructionError: the engine's output is not finite, or does not fit the map.

        """
        plan = self._plan_for(frame.image)
        with self._timer.stage('preprocess'):
            engine_image = resize_for_engine(frame.image, plan)
            network_images = network_input(engine_image)[None]
        with self._timer.stage('encoder'):
            (tokens,) = self._engine.encode(network_images)
        intrinsics = None
        if frame.intrinsics is not None:
            intrinsics = plan.engine_from_image_intrinsics(frame.intrinsics)
        due = self._window.add(
            WindowFrame(frame.stamp_ns, frame.frame_id, engine_image, tokens, intrinsics)
        )
        return self._run_window() if due else None

    def flush(self) -> WindowResult | None:
        """Give the frames that wait their poses now, e.g. at the end of a recording.

        The window is completed with frames that have poses already; where there are not enough of
        those, with repetitions of its last frame.
        """
        return self._run_window() if self._window.pending else None

    def _plan_for(self, image: NDArray[np.uint8]) -> PreprocessPlan:
        height, width = image.shape[:2]
        if self._plan is None:
            mode, patch = self.config.preprocess_mode, self._patch_size
            self._plan = plan_preprocess(width, height, self._width, self._height, mode, patch)
        if (width, height) != (self._plan.image_width, self._plan.image_height):
            raise ImageError(
                f'image of {width}x{height} after {self._plan.image_width}x'
                f'{self._plan.image_height}: reset before the size changes'
            )
        return self._plan

    def _run_window(self) -> WindowResult:
        frames, new_count = self._window.take()
        shared_count = len(frames) - new_count
        anchors = choose_anchors(shared_count, self.config.anchor_frames)
        new = list(range(shared_count, len(frames)))
        decoded, notes = self._run_engine(frames, anchors + new)
        with self._timer.stage('align'):
            alignment = self._align(decoded, frames, anchors)
        if alignment.fallback:
            notes.append(alignment.fallback)
        with self._timer.stage('points'):
            self._place(decoded, frames, new, alignment.map_from_window)
            clouds = [self._frame_cloud(decoded, frames[i], i, alignment, len(new)) for i in new]
        self._index += 1
        return WindowResult(
            index=self._index - 1,
            poses=tuple(self._frame_pose(frames[i], decoded.intrinsics[i]) for i in new),
            cloud=PointCloud.concatenate(clouds),
            scale=alignment.map_from_window.scale,
            residual=alignment.residual,
            inlier_share=alignment.inlier_share,
            median_depth=alignment.median_depth,
            notes=tuple(notes),
            stage_ms=self._timer.take(),
        )

    def _run_engine(
        self, frames: Sequence[WindowFrame], depth_frames: list[int]
    ) -> tuple[_DecodedWindow, list[str]]:
        """Run the window, decode its cameras and the depth of the chosen frames."""
        order = self._order(len(frames))
        tokens = [frames[index].tokens for index in order]
        tokens += tokens[-1:] * (self._window.size - len(tokens))
        with self._timer.stage('window'):
            output = self._engine.window(tokens)
        with self._timer.stage('depth'):
            depth, confidence = self._engine.depth(
                output, [order[index] for index in depth_frames]
            )
        with self._timer.stage('decode'):
            pose_enc, clamped = clamp_fov(output.pose_enc[order])
            if not (np.isfinite(depth).all() and np.isfinite(confidence).all()):
                raise ReconstructionError(
                    'depth holds NaN or infinity: the engine computes wrongly'
                )
            extrinsics, intrinsics = decode_pose_encoding(pose_enc, self._width, self._height)
            for index, frame in enumerate(frames):
                if frame.calibrated_intrinsics is not None:
                    intrinsics[index] = frame.calibrated_intrinsics
            decoded = _DecodedWindow(
                invert_pose(extrinsics),
                intrinsics,
                dict(zip(depth_frames, depth, strict=True)),
                dict(zip(depth_frames, confidence, strict=True)),
                {i: self._valid_pixels(d) for i, d in zip(depth_frames, depth, strict=True)},
            )
        return decoded, ['field of view out of range, clamped'] if clamped else []

    def _order(self, count: int) -> list[int]:
        """Return the order in which the network sees a window's frames, which is its own inverse.

        Networks judge scale a little differently by a frame's place in the window. Run backwards
        every second time, the shared frames have the same places in both of their windows, and
        what is judged wrongly there cancels instead of growing from window to window.
        """
        backwards = self.config.alternate_order and self._index % 2 == 1
        return list(range(count))[:: -1 if backwards else 1]

    def _valid_pixels(self, depth: Float32Array) -> BoolArray:
        """Return where the depth image shows the camera's image and has a usable depth."""
        assert self._plan is not None  # a window has frames, and the first one made the plan
        valid = np.zeros(depth.shape, dtype=bool)
        valid[self._plan.valid_region()] = True
        return valid & (depth > 0) & ~edge_mask(depth, self.config.depth_edge_ratio)

    def _align(
        self, decoded: _DecodedWindow, frames: Sequence[WindowFrame], anchors: list[int]
    ) -> Alignment:
        """Find the window's place in the map; the first window defines it."""
        if not anchors:
            # The network's first camera is only nearly the origin: make it exactly that.
            camera_from_window = invert_pose(decoded.window_from_camera[0])
            median_depth = float(np.median(next(iter(decoded.depth.values()))))
            placed = Sim3.from_pose(BODY_FROM_OPTICAL @ camera_from_window)
            return Alignment(placed, 0.0, 1.0, 0, median_depth)
        shared = [self._shared_frame(decoded, frames[index], index) for index in anchors]
        return align_window(shared, self.config.alignment)

    def _shared_frame(
        self, decoded: _DecodedWindow, frame: WindowFrame, index: int
    ) -> SharedFrame:
        assert frame.anchor is not None and frame.map_from_camera is not None  # it was placed
        u, v = self._sample_u, self._sample_v
        return SharedFrame(
            frame.anchor.points,
            frame.anchor.depth,
            frame.anchor.confidence,
            frame.map_from_camera,
            decoded.points(index, u, v),
            decoded.depth[index][v, u],
            np.where(decoded.valid[index][v, u], decoded.confidence[index][v, u], 0),
            decoded.window_from_camera[index],
        )

    def _place(
        self,
        decoded: _DecodedWindow,
        frames: Sequence[WindowFrame],
        new: list[int],
        map_from_window: Sim3,
    ) -> None:
        """Fix the new frames' poses and keep what later windows align to."""
        u, v = self._sample_u, self._sample_v
        for index in new:
            frame = frames[index]
            frame.map_from_camera = map_from_window.apply_pose(decoded.window_from_camera[index])
            confidence = np.where(decoded.valid[index][v, u], decoded.confidence[index][v, u], 0)
            frame.anchor = AnchorSamples(
                map_from_window.apply(decoded.points(index, u, v)).astype(np.float32),
                np.float32(map_from_window.scale) * decoded.depth[index][v, u],
                confidence.astype(np.float32),
            )

    def _frame_cloud(
        self,
        decoded: _DecodedWindow,
        frame: WindowFrame,
        index: int,
        alignment: Alignment,
        frame_count: int,
    ) -> PointCloud:
        """Return one frame's confident, edge-free points on a grid that holds max_points."""
        step = grid_step(self._width, self._height, frame_count, self.config.max_points)
        v, u = self._pixel_grid(step)
        confidence = decoded.confidence[index][v, u]
        floor = confidence_floor(
            confidence, self.config.drop_confidence_share, self.config.min_confidence
        )
        kept = decoded.valid[index][v, u] & (confidence >= floor)
        v, u = v[kept], u[kept]
        points = alignment.map_from_window.apply(decoded.points(index, u, v))
        return PointCloud(points.astype(np.float32), frame.engine_image[v, u], confidence[kept])

    def _frame_pose(self, frame: WindowFrame, engine_intrinsics: Float64Array) -> FramePose:
        assert self._plan is not None and frame.map_from_camera is not None
        intrinsics = self._plan.image_from_engine_intrinsics(engine_intrinsics)
        return FramePose(frame.stamp_ns, frame.frame_id, frame.map_from_camera, intrinsics)

    def _pixel_grid(self, step: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return rows and columns [n] of every step-th pixel, centred."""
        v, u = np.mgrid[step // 2 : self._height : step, step // 2 : self._width : step]
        return v.ravel(), u.ravel()
