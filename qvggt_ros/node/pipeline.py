# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""From an image message to a window's result: convert, guard, reconstruct. No ROS calls.

It runs in the worker thread. Whatever goes wrong with a frame becomes one line in the log and one
count, and the stream goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qvggt_ros.errors import EngineError, ImageError, ReconstructionError
from qvggt_ros.node.camera_info import CalibrationCache
from qvggt_ros.node.image_conversion import rgb_from_message
from qvggt_ros.node.statistics import NodeStatistics
from qvggt_ros.reconstruction.frames import Frame, WindowResult
from qvggt_ros.reconstruction.keyframes import FrameGate
from qvggt_ros.reconstruction.reconstructor import ReconstructionConfig, Reconstructor
from qvggt_ros.reconstruction.timing import StageTimer

NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class ReceivedImage:
    """An image message and when it came, on the monotonic clock."""

    message: Any
    received_s: float


@dataclass(frozen=True)
class PipelineLog:
    """Where one-line reports go."""

    warn: Callable[[str], object]
    error: Callable[[str], object]


class FramePipeline:
    """Feeds a reconstructor with image messages and holds it together when they are not good."""

    def __init__(
        self,
        reconstructor: Reconstructor,
        calibration: CalibrationCache,
        statistics: NodeStatistics,
        log: PipelineLog,
        on_result: Callable[[WindowResult], None],
        on_restart: Callable[[], None],
    ) -> None:
        """Prepare for a stream.

        Args:
            reconstructor: fed with the frames.
            calibration: asked for intrinsics.
            statistics: counts what happens.
            log: gets one line for each thing that goes wrong.
            on_result: gets every window's result.
            on_restart: called when a new map begins by itself.

        """
        self.reconstructor = reconstructor
        self._use_calibration = True
        self._gate = FrameGate()
        self._calibration = calibration
        self._statistics = statistics
        self._log = log
        self._on_result = on_result
        self._on_restart = on_restart
        self._reported: set[str] = set()
        self.reset()

    def apply(self, config: ReconstructionConfig, frame_skip: int, use_calibration: bool) -> None:
        """Change what may change in a running stream: not the window, its stride or anchors."""
        self.reconstructor.config = config
        self._gate.frame_skip = frame_skip
        self._use_calibration = use_calibration

    def reset(self) -> None:
        """Forget the stream so far; the next frame begins a new map."""
        self.reconstructor.reset()
        self._gate.reset()
        self._last_stamp_ns: int | None = None
        self._size: tuple[int, int] | None = None
        self._timer = StageTimer()
        self.received_s: dict[int, float] = {}  # by stamp, of the frames that await their pose

    def process(self, image: ReceivedImage) -> None:
        """Take in one message."""
        header = image.message.header
        stamp_ns = int(header.stamp.sec) * NS_PER_S + int(header.stamp.nanosec)
        if not self._gate.takes_next():
            self._statistics.count('frames_skipped')
            return
        try:
            with self._timer.stage('convert'):
                rgb = rgb_from_message(image.message)
        except ImageError as error:
            self._refuse(error)
            return
        height, width = rgb.shape[:2]
        if not self._in_order(stamp_ns):
            return
        self._follow_size(width, height)
        intrinsics = None
        if self._use_calibration:
            intrinsics = self._calibration.intrinsics_for(width, height)
        self.received_s[stamp_ns] = image.received_s
        frame = Frame(rgb, stamp_ns, header.frame_id, intrinsics)
        self._guarded(lambda: self.reconstructor.add_frame(frame))

    def flush(self) -> None:
        """Give the frames that wait their poses."""
        self._guarded(self.reconstructor.flush)

    def _guarded(self, step: Callable[[], WindowResult | None]) -> None:
        """Run one step and pass its result on; on an error report it and begin anew."""
        try:
            result = step()
        except (EngineError, ReconstructionError) as error:
            self._statistics.error(str(error))
            self._log.error(f'window lost, a new map begins: {error}')
            self._restart()
            return
        if result is not None:
            result.stage_ms.update(self._timer.take())
            self._on_result(result)
            for pose in result.poses:
                self.received_s.pop(pose.stamp_ns, None)

    def _refuse(self, error: ImageError) -> None:
        """Count a bad image; report each kind once, not thirty times a second."""
        self._statistics.count('frames_refused')
        self._statistics.error(str(error))
        if str(error) not in self._reported and len(self._reported) < 100:
            self._reported.add(str(error))
            self._log.error(f'{error} (reported once)')

    def _in_order(self, stamp_ns: int) -> bool:
        """Return whether the stamp goes forward; begin anew when it jumped far back."""
        last_ns, self._last_stamp_ns = self._last_stamp_ns, stamp_ns
        if last_ns is None or stamp_ns > last_ns:
            return True
        if last_ns - stamp_ns < NS_PER_S:
            # Late or sent twice: the frames around it are already placed.
            self._last_stamp_ns = last_ns
            self._statistics.count('frames_out_of_order')
            return False
        self._log.warn(
            f'stamps jumped back by {(last_ns - stamp_ns) / NS_PER_S:.3f} s (a bag that was '
            'restarted?): a new map begins'
        )
        self.flush()
        self._restart()
        self._last_stamp_ns = stamp_ns
        return True

    def _follow_size(self, width: int, height: int) -> None:
        size, self._size = self._size, (width, height)
        if size is not None and size != (width, height):
            self._log.warn(
                f'image size changed from {size[0]}x{size[1]} to {width}x{height}: '
                'a new map begins'
            )
            stamp_ns = self._last_stamp_ns
            self.flush()
            self._restart()
            self._last_stamp_ns, self._size = stamp_ns, (width, height)

    def _restart(self) -> None:
        self._statistics.count('restarts')
        self._statistics.count('frames_lost', self.reconstructor.pending)
        self.reset()
        self._on_restart()
