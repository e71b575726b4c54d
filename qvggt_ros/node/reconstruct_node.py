# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node: images in, poses, transforms and point clouds out."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger

from qvggt_ros.errors import QvggtError
from qvggt_ros.node.camera_info import CalibrationCache
from qvggt_ros.node.clocks import missing_clock, steady_timer
from qvggt_ros.node.diagnostics import diagnostic_array
from qvggt_ros.node.engine_setup import EngineIdentity, load_engine
from qvggt_ros.node.inputs import Inputs
from qvggt_ros.node.interrupts import is_interrupt
from qvggt_ros.node.outputs import Outputs
from qvggt_ros.node.parameters import (
    NodeSettings,
    declare_parameters,
    read_settings,
    validate_change,
)
from qvggt_ros.node.pipeline import FramePipeline, PipelineLog, ReceivedImage
from qvggt_ros.node.statistics import NodeStatistics
from qvggt_ros.node.worker import EngineWorker
from qvggt_ros.reconstruction.cloud import PointCloud, write_ply
from qvggt_ros.reconstruction.frames import WindowResult

NODE_NAME = 'reconstruct'
EXIT_BAD_START = 2
HOUSEKEEPING_PERIOD_S = 1.0
# Stamps further than this from the node's clock are of another clock (a bag's): no age then.
PLAUSIBLE_AGE_S = 3600.0


class ReconstructNode(LifecycleNode):
    """Configure loads the engine, activate listens, deactivate forgets, cleanup lets go."""

    def __init__(self, **node_arguments: Any) -> None:
        """Declare the parameters; rclpy raises if an override has a wrong type or range."""
        super().__init__(NODE_NAME, **node_arguments)
        declare_parameters(self)
        self._settings = NodeSettings()
        self._settings_stale = False
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._statistics = NodeStatistics()
        self._calibration = CalibrationCache(self.get_logger().warning)
        self._publish_lock = threading.Lock()  # held while a window goes out
        self._worker: EngineWorker | None = None
        self._pipeline: FramePipeline | None = None
        self._identity: EngineIdentity | None = None
        self._inputs: Inputs | None = None
        self._outputs: Outputs | None = None
        self._destroyers: list[Callable[[], object]] = []
        self._paused = False
        self._next_map_s = 0.0
        self._clock_told = False

    # --- lifecycle ---

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the engine, prove it, run it once; offer outputs and services."""
        try:
            self._settings = read_settings(self)
            self._outputs = Outputs(self, self._settings)
            self._load_engine()
            self._offer_services()
            return super().on_configure(state)
        except Exception as error:  # rclpy would swallow it without a word
            return self._give_up('configure', error)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Listen to the camera."""
        try:
            result = super().on_activate(state)
            self._statistics.clear()
            self._calibration.clear()
            self._paused = False
            self._inputs = Inputs(
                self, self._settings, self._on_image, self._calibration, self._statistics
            )
            self.get_logger().info(self._ready_line())
            return result
        except Exception as error:
            return self._give_up('activate', error)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening; drop what waits and what is under way."""
        self._stop_listening()
        self._forget()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let the engine, the outputs and the services go."""
        result = super().on_cleanup(state)
        self.release()
        return result

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let everything go, from whichever state."""
        result = super().on_shutdown(state)
        self.release()
        return result

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let everything go; the node can be configured again."""
        self.release()
        return TransitionCallbackReturn.SUCCESS

    def release(self) -> None:
        """Let everything go that configure and activate made, in reverse."""
        self._stop_listening()
        while self._destroyers:
            self._destroyers.pop()()
        if self._worker is not None:
            self._worker.reset()  # a window under way is not published any more
            self._worker.stop()
        self._worker = self._pipeline = None
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None

    def destroy_node(self) -> None:
        """Let everything go, the engine's thread too, and take the node down."""
        self.release()
        super().destroy_node()

    def _give_up(self, transition: str, error: Exception) -> TransitionCallbackReturn:
        """Report why a transition failed and go back to what was before configure."""
        kind = '' if isinstance(error, QvggtError) else f'{type(error).__name__}: '
        self.get_logger().error(f'cannot {transition}: {kind}{error}')
        self.release()
        # After a failed activation nothing is left to be inactive with: error processing leads
        # to unconfigured.
        failed = transition == 'configure'
        return TransitionCallbackReturn.FAILURE if failed else TransitionCallbackReturn.ERROR

    def _load_engine(self) -> None:
        worker = EngineWorker(
            self._make_pipeline,
            self._settings.frame_queue,
            on_drop=lambda: self._statistics.count('frames_dropped'),
            on_crash=self._on_crash,
        )
        worker.start()
        self._worker = worker
        self._apply_settings()

    def _make_pipeline(self) -> FramePipeline:
        """Load, check and warm the engine. Runs in the worker thread, which owns it."""
        logger = self.get_logger()
        reconstructor, self._identity = load_engine(self._settings, logger.info)
        self._pipeline = FramePipeline(
            reconstructor,
            self._calibration,
            self._statistics,
            PipelineLog(logger.warning, logger.error),
            on_result=self._on_result,
            on_restart=self._on_restart,
        )
        return self._pipeline

    def _offer_services(self) -> None:
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._destroyers.append(lambda: self.destroy_publisher(self._diagnostics))
        for kind, name, callback in (
            (Trigger, '~/reset', self._on_reset),
            (SetBool, '~/pause', self._on_pause),
            (Trigger, '~/save_map', self._on_save_map),
        ):
            service = self.create_service(kind, name, callback)
            self._destroyers.append(partial(self.destroy_service, service))
        timer = steady_timer(self, HOUSEKEEPING_PERIOD_S, self._housekeeping)
        self._destroyers.append(partial(self.destroy_timer, timer))

    def _stop_listening(self) -> None:
        if self._inputs is not None:
            self._inputs.destroy()
            self._inputs = None

    def _forget(self) -> None:
        """Drop all frames, the path and the map; a window under way is not published."""
        if self._worker is None or self._outputs is None:
            return
        self._worker.reset()
        with self._publish_lock:
            self._outputs.clear()

    # --- stream ---

    def _on_image(self, image: ReceivedImage) -> None:
        if self._paused or self._worker is None:
            self._statistics.count('frames_paused')
        else:
            self._worker.submit(image)

    def _on_result(self, result: WindowResult) -> None:
        """Publish a window. Runs in the worker thread."""
        outputs, worker, pipeline = self._outputs, self._worker, self._pipeline
        if outputs is None or worker is None or pipeline is None:
            return
        started_s = time.monotonic()
        with self._publish_lock:
            if worker.reset_pending:
                return
            outputs.publish(result, with_tf=self._settings.publish_tf)
        now_s = time.monotonic()
        self._statistics.time('publish', (now_s - started_s) * 1e3)
        self._statistics.window_published(result, now_s)
        clock_ns = self.get_clock().now().nanoseconds
        for pose in result.poses:
            waited_s = now_s - pipeline.received_s.get(pose.stamp_ns, now_s)
            self._statistics.time('received_to_published', waited_s * 1e3)
            age_s = (clock_ns - pose.stamp_ns) / 1e9
            if abs(age_s) < PLAUSIBLE_AGE_S:
                self._statistics.time('age_at_publish', age_s * 1e3)

    def _on_restart(self) -> None:
        """Empty path and map because a new map begins. Runs in the worker thread."""
        if self._outputs is not None:
            self._outputs.clear()

    def _on_crash(self, error: BaseException) -> None:
        text = f'{type(error).__name__}: {error}'
        self._statistics.error(text)
        self.get_logger().error(f'window lost, a new map begins: {text}')
        self._on_restart()

    # --- services and parameters ---

    def _on_reset(self, request: Any, response: Any) -> Any:
        self._forget()
        self.get_logger().info('reset: a new map begins')
        response.success, response.message = True, 'a new map begins with the next image'
        return response

    def _on_pause(self, request: Any, response: Any) -> Any:
        self._paused = bool(request.data)
        response.success, response.message = True, 'paused' if self._paused else 'goes on'
        self.get_logger().info(response.message)
        return response

    def _on_save_map(self, request: Any, response: Any) -> Any:
        path = Path(self.get_parameter('save_map_path').value).expanduser().absolute()
        try:
            cloud = self._outputs.map_cloud() if self._outputs else PointCloud.concatenate([])
            write_ply(cloud, path)
            response.success, response.message = True, f'{len(cloud)} voxels written to {path}'
            self.get_logger().info(response.message)
        except QvggtError as error:
            response.success, response.message = False, str(error)
            self.get_logger().error(response.message)
        return response

    def _on_set_parameters(self, changes: Sequence[Parameter]) -> SetParametersResult:
        """Validate only: another callback may still refuse, so housekeeping applies."""
        result = validate_change(self, changes)
        self._settings_stale = self._settings_stale or result.successful
        return result

    def _apply_settings(self) -> None:
        """Hand the parameters that may change to those who use them."""
        self._settings = read_settings(self)
        self._settings_stale = False
        if self._pipeline is not None and self._worker is not None:
            self._pipeline.apply(
                self._settings.reconstruction_config(),
                self._settings.frame_skip,
                self._settings.use_camera_info,
            )
            self._worker.set_flush_after(self._settings.flush_after_s)

    # --- once a second ---

    def _housekeeping(self) -> None:
        if self._settings_stale:
            self._apply_settings()
        if self._outputs is None or self._identity is None:
            return
        now_s = time.monotonic()
        self._outputs.publish_path()
        if now_s >= self._next_map_s:
            self._next_map_s = now_s + self._settings.map_period_s
            self._outputs.publish_map()
        silence = ''
        if self._inputs is not None and not self._paused:
            silence = self._inputs.silence(self._settings.image_timeout_s)
            silence = silence or self._missing_clock()
        array_header = Header(stamp=self.get_clock().now().to_msg())
        snapshot = self._statistics.snapshot(now_s)
        self._diagnostics.publish(
            diagnostic_array(self.get_name(), array_header, snapshot, self._identity, silence)
        )

    def _missing_clock(self) -> str:
        """Return what is wrong with the clock, empty if nothing is; it is logged once."""
        text = missing_clock(self)
        if text and not self._clock_told:
            self._clock_told = True
            self.get_logger().warning(text)
        return text

    def _ready_line(self) -> str:
        assert self._identity is not None and self._inputs is not None
        name = self.get_fully_qualified_name()
        return (
            f'ready: {self._identity.bundle} ({self._identity.precision}) on '
            f'{self._identity.engine}, window of {self._identity.window}, '
            f'{self._identity.image}; in: {self._inputs.image_topic}, '
            f'{self._inputs.camera_info_topic}; out: {name}/points, map, pose, odometry, path'
            f'{", /tf" if self._settings.publish_tf else ""}'
        )


def main(args: Sequence[str] | None = None) -> int:
    """Run the node; return 2 after one line if it cannot start by itself."""
    try:
        rclpy.init(args=None if args is None else list(args))
        node = ReconstructNode()
    except Exception as error:  # rclpy's own, of no common root: a bad file, type or range
        print(f'{NODE_NAME}: {_one_line(error)}', file=sys.stderr)
        return EXIT_BAD_START
    try:
        if node.get_parameter('autostart').value and not start(node):
            return EXIT_BAD_START
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, Exception) as error:
        if not is_interrupt(error):
            raise
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


def start(node: ReconstructNode) -> bool:
    """Configure and activate; return whether both succeeded."""
    success = TransitionCallbackReturn.SUCCESS
    return node.trigger_configure() == success and node.trigger_activate() == success


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split()) or type(error).__name__


if __name__ == '__main__':
    sys.exit(main())
