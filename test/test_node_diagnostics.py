# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is counted and measured arrives in /diagnostics, with the right level."""

from __future__ import annotations

import time

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from std_msgs.msg import Header

from qvggt_ros.node.diagnostics import COUNTERS, diagnostic_array, resident_memory_mb
from qvggt_ros.node.engine_setup import EngineIdentity
from qvggt_ros.node.statistics import ERROR_MEMORY_S, NodeStatistics
from qvggt_ros.reconstruction.cloud import PointCloud
from qvggt_ros.reconstruction.frames import FramePose, WindowResult

IDENTITY = EngineIdentity('demo', 'onnxruntime', 'fp32', 'none', '4 frames', '112x84', 'key')
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def result(inlier_share: float = 0.9, notes: tuple[str, ...] = ()) -> WindowResult:
    pose = FramePose(1, 'optical', np.eye(4), np.eye(3))
    return WindowResult(
        index=3,
        poses=(pose, pose),
        cloud=PointCloud.concatenate([]),
        scale=1.25,
        residual=0.01,
        inlier_share=inlier_share,
        median_depth=1.0,
        notes=notes,
        stage_ms={'encoder': 2.0, 'window': 8.0},
    )


def diagnostics(
    statistics: NodeStatistics, silence: str = '', now_s: float = 100.0
) -> tuple[dict[str, DiagnosticStatus], dict[str, str]]:
    """Return the statuses by their short name, and all values in one."""
    snapshot = statistics.snapshot(now_s)
    array = diagnostic_array('node', Header(), snapshot, IDENTITY, silence)
    assert isinstance(array, DiagnosticArray)
    statuses = {status.name.removeprefix('node: '): status for status in array.status}
    values = {value.key: value.value for status in array.status for value in status.values}
    return statuses, values


def test_before_the_first_window() -> None:
    statuses, values = diagnostics(NodeStatistics())
    assert set(statuses) == {'input', 'latency', 'reconstruction'}
    assert all(status.level == OK for status in statuses.values())
    assert all(values[name] == '0' for name in COUNTERS)
    assert values['engine_key'] == 'key' and float(values['memory_rss_mb']) > 10


def test_counts_stages_and_quality() -> None:
    statistics = NodeStatistics()
    for tick in range(11):
        statistics.image_received(99.0 + 0.1 * tick)
    statistics.count('frames_dropped', 3)
    statistics.window_published(result(), 100.0)
    statuses, values = diagnostics(statistics)
    assert values['frames_received'] == '11' and values['frames_dropped'] == '3'
    assert float(values['input_rate_hz']) == pytest.approx(10, abs=0.01)
    assert values['windows'] == '1' and values['poses'] == '2'
    assert values['window_p50_ms'] == '8.000' and values['encoder_p99_ms'] == '2.000'
    assert values['total_p95_ms'] == '10.000'
    assert values['scale'] == '1.25' and values['inlier_share'] == '0.9000'
    assert '3 dropped' in statuses['input'].message
    assert statuses['reconstruction'].level == OK


def test_levels_say_what_is_wrong() -> None:
    statistics = NodeStatistics()
    statistics.window_published(result(inlier_share=0.2), 100.0)
    status = diagnostics(statistics)[0]['reconstruction']
    assert status.level == WARN and '20 % inliers' in status.message
    statistics.window_published(result(notes=('field of view clamped',)), 100.0)
    status = diagnostics(statistics)[0]['reconstruction']
    assert status.level == WARN and status.message == 'field of view clamped'
    assert diagnostics(statistics, silence='no image')[0]['input'].level == WARN


def test_an_error_shows_for_a_while() -> None:
    statistics = NodeStatistics()
    statistics.error('the engine broke')
    now_s = time.monotonic()
    status = diagnostics(statistics, now_s=now_s)[0]['reconstruction']
    assert status.level == ERROR and status.message == 'the engine broke'
    later = diagnostics(statistics, now_s=now_s + ERROR_MEMORY_S + 1)
    assert later[0]['reconstruction'].level == OK and later[1]['errors'] == '1'


def test_clear_starts_from_zero() -> None:
    statistics = NodeStatistics()
    statistics.window_published(result(), 100.0)
    statistics.clear()
    _, values = diagnostics(statistics)
    assert values['windows'] == '0' and 'window_p50_ms' not in values


def test_memory_is_that_of_this_process() -> None:
    before = resident_memory_mb()
    ballast = np.ones(8_000_000)
    assert resident_memory_mb() - before > 50
    del ballast
