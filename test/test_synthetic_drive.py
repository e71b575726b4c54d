# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Drives: smooth, in free space, looking at something, the same bytes however they are cut."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from qvggt_ros.errors import UsageError
from qvggt_ros.synthetic.drive import Drive, plan_drive, render_drive, render_trajectory
from qvggt_ros.synthetic.scene import piece_distance_m, wall_distance_m

SEEDS = (10_093, 10_000, 10_001, 3, 4)
PINNED_DRIVE = 'bcac52849713ae9a'


@pytest.fixture(scope='module', params=SEEDS)
def drive(request: pytest.FixtureRequest) -> Drive:
    return plan_drive(request.param, 200, 320, 240)


def test_a_drive_keeps_clear(drive: Drive) -> None:
    centre = drive.cameras.centre_m
    assert piece_distance_m(drive.rooms, centre).min() > 0.39
    assert wall_distance_m(drive.rooms, centre).min() > 0.4


def test_a_drive_is_smooth_and_goes_somewhere(drive: Drive) -> None:
    centre, axis = drive.cameras.centre_m[0], drive.cameras.rotation[0, :, :, 2]
    step = np.sqrt((np.diff(centre, axis=0) ** 2).sum(axis=1))
    assert step.max() < 0.08  # 0.8 m/s
    assert 4.0 < step.sum() < 16.0
    turn = np.degrees(np.arccos(np.clip((axis[1:] * axis[:-1]).sum(axis=1), -1.0, 1.0)))
    assert turn.max() < 12.0
    assert turn.sum() > 150.0
    # No jump in speed from frame to frame either.
    assert np.abs(np.diff(step)).max() < 0.02


def test_a_drive_comes_back_to_its_beginning(drive: Drive) -> None:
    centre = drive.cameras.centre_m[0]
    assert np.linalg.norm(centre[-1, :2] - centre[0, :2]) < 0.15


def test_exposure_does_not_flicker(drive: Drive) -> None:
    level = drive.brightness[0]
    assert level.min() > 0.0
    assert np.abs(np.diff(level) / level[1:]).max() < 0.12


def test_stamps_follow_the_rate() -> None:
    assert plan_drive(5, 4, 64, 48, rate_hz=5.0).stamp_s[0] == pytest.approx([0.0, 0.2, 0.4, 0.6])


def test_a_short_drive_is_no_faster() -> None:
    centre = plan_drive(10_093, 10, 64, 48).cameras.centre_m[0]
    step = np.sqrt((np.diff(centre, axis=0) ** 2).sum(axis=1))
    assert step == pytest.approx(0.04, abs=0.002)


def test_bytes_are_pinned_and_do_not_depend_on_how_the_drive_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = render_trajectory(10_093, 5, 64, 48)
    monkeypatch.setattr('qvggt_ros.synthetic.drive._FRAMES_AT_ONCE', 3)
    parts = list(render_drive(plan_drive(10_093, 5, 64, 48)))
    assert [part.images.shape[1] for part in parts] == [3, 2]
    assert torch.equal(torch.cat([part.images for part in parts], dim=1), whole.images)
    assert torch.equal(torch.cat([part.depth_m for part in parts], dim=1), whole.depth_m)
    content = whole.images.numpy().tobytes() + whole.depth_m.numpy().tobytes()
    assert hashlib.sha256(content).hexdigest()[:16] == PINNED_DRIVE


def test_whole_trajectory_has_the_shapes_of_a_sequence() -> None:
    whole = render_trajectory(3, 3, 64, 48, samples=1)
    assert whole.images.shape == (1, 3, 3, 48, 64)
    assert whole.depth_m.shape == (1, 3, 48, 64)
    assert whole.camera_from_world.shape == (1, 3, 4, 4)
    assert whole.stamp_s.shape == (1, 3)


@pytest.mark.parametrize('numbers', [(0, 8, 8, 1.0), (1, 0, 8, 1.0), (1, 8, 8, 0.0)])
def test_what_cannot_be_driven_is_refused(numbers: tuple[int, int, int, float]) -> None:
    with pytest.raises(UsageError, match='must be positive'):
        plan_drive(1, *numbers)
