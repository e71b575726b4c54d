# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""From messages to windows: what is wrong becomes one line and one count, and it goes on."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from oracle_engine import FOV_W_RAD, OracleEngine, image_of_frame
from sensor_msgs.msg import CameraInfo, Image

from qvggt_ros.engine.interface import WindowOutput
from qvggt_ros.errors import EngineError
from qvggt_ros.node.camera_info import CalibrationCache
from qvggt_ros.node.messages import header
from qvggt_ros.node.pipeline import FramePipeline, PipelineLog, ReceivedImage
from qvggt_ros.node.statistics import NodeStatistics
from qvggt_ros.reconstruction.frames import STAGES, WindowResult
from qvggt_ros.reconstruction.reconstructor import ReconstructionConfig, Reconstructor

START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000


class Harness:
    """A pipeline with an oracle engine (window of 4, stride 2), and what came out of it."""

    def __init__(self, engine: OracleEngine | None = None) -> None:
        self.results: list[WindowResult] = []
        self.restarts = 0
        self.lines: list[str] = []
        self.statistics = NodeStatistics()
        self.calibration = CalibrationCache(self.lines.append)
        self.pipeline = FramePipeline(
            Reconstructor(engine or OracleEngine()),
            self.calibration,
            self.statistics,
            PipelineLog(self.lines.append, self.lines.append),
            self.results.append,
            self._restart,
        )

    def _restart(self) -> None:
        self.restarts += 1

    def feed(self, index: int, stamp_ns: int | None = None, **changes: Any) -> None:
        size = changes.pop('size', (112, 84))
        stamp = START_NS + index * PERIOD_NS if stamp_ns is None else stamp_ns
        message = image_message(image_of_frame(index, *size), stamp)
        for name, value in changes.items():
            setattr(message, name, value)
        self.pipeline.process(ReceivedImage(message, 1.0))

    @property
    def counts(self) -> dict[str, int]:
        return self.statistics.snapshot(0.0).counts

    @property
    def stamps(self) -> list[int]:
        return [pose.stamp_ns for result in self.results for pose in result.poses]


def image_message(pixels: np.ndarray, stamp_ns: int) -> Image:
    height, width = pixels.shape[:2]
    return Image(
        header=header(stamp_ns, 'optical'),
        height=height,
        width=width,
        encoding='rgb8',
        step=3 * width,
        data=array('B', pixels.tobytes()),
    )


def test_each_frame_gets_one_pose_with_its_stamp_and_frame() -> None:
    harness = Harness()
    for index in range(7):
        harness.feed(index)
    assert [len(result.poses) for result in harness.results] == [4, 2]
    harness.pipeline.flush()
    assert harness.stamps == [START_NS + i * PERIOD_NS for i in range(7)]
    assert {p.frame_id for r in harness.results for p in r.poses} == {'optical'}
    assert set(harness.results[0].stage_ms) == {'convert', *STAGES}
    assert harness.lines == [] and harness.pipeline.received_s == {}


def test_unknown_encoding_is_reported_once_and_counted_always() -> None:
    harness = Harness()
    for index in range(5):
        harness.feed(index, encoding='rgb32f')
    assert len(harness.lines) == 1 and "'rgb32f'" in harness.lines[0]
    assert harness.counts['frames_refused'] == 5
    for index in range(4):
        harness.feed(index)
    assert len(harness.results) == 1


def test_jump_back_in_time_finishes_the_old_map_and_begins_a_new_one() -> None:
    harness = Harness()
    order = [20, 21, 22, 23, 24, 0, 1, 2, 3]
    for index in order:
        harness.feed(index)
    assert harness.restarts == 1
    assert ['jumped back by 2.400 s' in line for line in harness.lines] == [True]
    assert harness.stamps == [START_NS + i * PERIOD_NS for i in order]
    assert [result.index for result in harness.results] == [0, 1, 0]


def test_late_and_repeated_frames_are_left_out() -> None:
    harness = Harness()
    for index, stamp in ((0, 0), (1, 1), (2, 1), (3, 0), (4, 2), (5, 3)):
        harness.feed(index, START_NS + stamp * PERIOD_NS)
    assert harness.stamps == [START_NS + i * PERIOD_NS for i in range(4)]
    assert harness.counts['frames_out_of_order'] == 2 and harness.restarts == 0


def test_size_change_begins_a_new_map() -> None:
    harness = Harness()
    for index in range(5):
        harness.feed(index)
    for index in range(5, 9):
        harness.feed(index, size=(224, 168))
    assert harness.restarts == 1
    assert harness.lines == ['image size changed from 112x84 to 224x168: a new map begins']
    assert len(harness.stamps) == 9


@pytest.mark.parametrize('fault', [EngineError('engine broke'), None])
def test_engine_fault_and_nan_are_told_and_the_stream_goes_on(fault: Exception | None) -> None:
    class Broken(OracleEngine):
        broken = True

        def window(self, tokens: Sequence[Any]) -> WindowOutput:
            output = super().window(tokens)
            if self.broken and fault is not None:
                raise fault
            if self.broken:
                output.pose_enc[:] = np.nan
            return output

    engine = Broken()
    harness = Harness(engine)
    for index in range(4):
        harness.feed(index)
    assert harness.results == [] and harness.restarts == 1 and len(harness.lines) == 1
    assert 'window lost' in harness.lines[0]
    assert harness.statistics.snapshot(0.0).counts['errors'] == 1
    engine.broken = False
    for index in range(4, 8):
        harness.feed(index)
    assert len(harness.results) == 1 and len(harness.lines) == 1


def test_frames_skipped_are_counted_and_have_no_pose() -> None:
    harness = Harness()
    harness.pipeline.apply(ReconstructionConfig(), frame_skip=1, use_calibration=True)
    for index in range(8):
        harness.feed(index)
    assert harness.stamps == [START_NS + i * PERIOD_NS for i in (0, 2, 4, 6)]
    assert harness.counts['frames_skipped'] == 4


def camera_info(focal: float, width: int = 112, height: int = 84, **changes: Any) -> CameraInfo:
    k = [focal, 0.0, 56.0, 0.0, focal, 42.0, 0.0, 0.0, 1.0]
    return CameraInfo(width=width, height=height, k=k, **changes)


def test_calibration_is_used_when_it_comes_and_not_when_switched_off() -> None:
    true_focal = 56 / np.tan(FOV_W_RAD / 2)
    for use, wanted in ((True, 100.0), (False, true_focal)):
        harness = Harness()
        harness.pipeline.apply(ReconstructionConfig(), 0, use_calibration=use)
        harness.calibration.update(camera_info(100.0))
        for index in range(4):
            harness.feed(index)
        assert harness.results[0].poses[0].intrinsics[0, 0] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ('info', 'words', 'used'),
    [
        (camera_info(0.0), 'no usable K', False),
        (camera_info(float('nan')), 'no usable K', False),
        (camera_info(100.0, 640, 480), 'is for 640x480, images are 112x84', False),
        (camera_info(100.0, d=[0.1, 0.0, 0.0, 0.0, 0.0]), 'has distortion', True),
    ],
)
def test_calibration_that_does_not_fit_is_told_once(
    info: CameraInfo, words: str, used: bool
) -> None:
    lines: list[str] = []
    cache = CalibrationCache(lines.append)
    for _ in range(3):
        cache.update(info)
        assert (cache.intrinsics_for(112, 84) is not None) == used
    assert len(lines) == 1 and words in lines[0]
    cache.clear()
    assert cache.intrinsics_for(112, 84) is None
