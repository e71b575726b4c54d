# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The window slides as it should, the gate thins, timers and percentiles count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvggt_ros.errors import UsageError
from qvggt_ros.reconstruction.keyframes import FrameGate
from qvggt_ros.reconstruction.timing import RateMeter, RollingPercentiles, StageTimer
from qvggt_ros.reconstruction.windows import SlidingWindow, WindowFrame, choose_anchors


def frame(index: int) -> WindowFrame:
    return WindowFrame(index, 'camera', np.zeros((1, 1, 3), np.uint8), tokens=index)


@given(st.integers(2, 9), st.data(), st.integers(0, 40))
def test_every_frame_is_new_exactly_once(size: int, data: st.DataObject, count: int) -> None:
    stride = data.draw(st.integers(1, size - 1))
    window = SlidingWindow(size, stride)
    new: list[int] = []
    for index in range(count):
        if window.add(frame(index)):
            frames, new_count = window.take()
            assert len(frames) == size and window.pending == 0
            assert new_count == (size if not new else stride)
            new += [f.stamp_ns for f in frames[-new_count:]]
    rest = window.pending
    if rest:
        frames, new_count = window.take()
        assert new_count == rest
        new += [f.stamp_ns for f in frames[-new_count:]]
    assert new == list(range(count))


def test_after_an_early_take_the_stride_counts() -> None:
    window = SlidingWindow(4, 2)
    assert [window.add(frame(0)), window.take()[1]] == [False, 1]
    assert [window.add(frame(1)), window.add(frame(2))] == [False, True]


@pytest.mark.parametrize(('size', 'stride'), [(1, 1), (4, 4), (4, 0), (0, 0)])
def test_windows_that_do_not_overlap_are_refused(size: int, stride: int) -> None:
    with pytest.raises(UsageError, match='overlap'):
        SlidingWindow(size, stride)


def test_a_due_window_must_be_taken() -> None:
    window = SlidingWindow(2, 1)
    window.add(frame(0))
    window.add(frame(1))
    with pytest.raises(UsageError, match='not taken'):
        window.add(frame(2))


@pytest.mark.parametrize(
    ('shared', 'anchors', 'wanted'),
    [(0, 2, []), (1, 2, [0]), (4, 1, [3]), (4, 2, [0, 3]), (5, 3, [0, 2, 4]), (3, 9, [0, 1, 2])],
)
def test_anchors_always_hold_the_newest(shared: int, anchors: int, wanted: list[int]) -> None:
    assert choose_anchors(shared, anchors) == wanted


def test_gate_takes_one_and_skips() -> None:
    gate = FrameGate(frame_skip=2)
    assert [gate.takes_next() for _ in range(7)] == [True, False, False, True, False, False, True]
    gate.reset()
    assert gate.takes_next()


def test_percentiles_by_hand_and_bounded() -> None:
    rolling = RollingPercentiles(capacity=100)
    assert rolling.percentiles() is None
    for value in range(1, 201):
        rolling.add(value)
    result = rolling.percentiles()
    assert result is not None
    assert (result.p50, result.p95, result.p99, result.count) == (150, 195, 199, 200)
    rolling.clear()
    assert rolling.percentiles() is None


def test_stage_timer_adds_up_and_starts_again() -> None:
    timer = StageTimer()
    for _ in range(2):
        with timer.stage('work'):
            pass
    taken = timer.take()
    assert set(taken) == {'work'} and taken['work'] >= 0
    assert timer.take() == {}


def test_rate_over_the_horizon() -> None:
    meter = RateMeter(horizon_s=2.0)
    assert meter.rate_hz(0.0) == 0
    for tick in range(11):
        meter.tick(0.1 * tick)
    assert meter.rate_hz(1.0) == pytest.approx(10)
    assert meter.rate_hz(100.0) == 0
