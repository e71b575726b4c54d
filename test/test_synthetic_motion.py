# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Camera motion: kinds, free space, what the amount of motion means."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvggt_ros.errors import UsageError
from qvggt_ros.synthetic.furnishing import build_rooms
from qvggt_ros.synthetic.motion import CLEARANCE_M, KINDS, Motion, MotionConfig, draw_motion
from qvggt_ros.synthetic.poses import climbing, look_rotation
from qvggt_ros.synthetic.scene import (
    FIRST_BOX,
    FIRST_NICHE,
    Rooms,
    piece_distance_m,
    wall_distance_m,
)
from qvggt_ros.synthetic.windows import WINDOW_MOTION, training_motion

COUNT, FRAMES = 120, 4


def only(kind: str, amount: float = 1.0) -> MotionConfig:
    weights = tuple(float(name == kind) for name in KINDS)
    return MotionConfig(weights=weights, least=amount, most=amount, shuffled=0.0, backwards=0.0)


def draw(config: MotionConfig, frames: int = FRAMES) -> tuple[Motion, Rooms]:
    seeds = np.arange(COUNT)
    return draw_motion(seeds, build_rooms(seeds), frames, 112, 84, config)


def angles(motion: Motion) -> np.ndarray:
    """Return the angle between the optical axes of the first and each frame, degrees [B, S]."""
    axis = motion.cameras.rotation[..., 2]
    return np.degrees(np.arccos(np.clip((axis * axis[:, :1]).sum(axis=-1), -1.0, 1.0)))


def path_m(motion: Motion) -> np.ndarray:
    """Return how far each frame's camera is from the first one's, metres [B, S]."""
    centre = motion.cameras.centre_m
    return np.sqrt(((centre - centre[:, :1]) ** 2).sum(axis=-1))


@pytest.mark.parametrize('frames', [1, 2, 4, 8])
def test_cameras_stay_in_free_space(frames: int) -> None:
    motion, rooms = draw(MotionConfig(), frames)
    centre = motion.cameras.centre_m
    assert centre.shape == (COUNT, frames, 3)
    assert piece_distance_m(rooms, centre).min() >= CLEARANCE_M
    walls = wall_distance_m(rooms, centre).min(axis=1)
    assert walls.min() > 0.19
    assert (walls > 0.29).mean() > 0.9


def test_few_pieces_have_to_make_way() -> None:
    before = build_rooms(np.arange(COUNT))
    _, after = draw(MotionConfig())
    pieces = slice(FIRST_BOX, FIRST_NICHE)
    assert after.used[:, pieces].sum() > 0.97 * before.used[:, pieces].sum()


def test_all_kinds_occur_by_their_weights() -> None:
    motion, _ = draw(MotionConfig())
    drawn = {index for index, weight in enumerate(MotionConfig().weights) if weight}
    assert set(motion.kind.tolist()) == drawn
    motion, _ = draw(only('orbit'))
    assert set(motion.kind.tolist()) == {KINDS.index('orbit')}


def test_a_turn_turns_and_stays() -> None:
    motion, _ = draw(only('turn'))
    assert np.median(angles(motion)[:, -1]) > 15.0
    assert path_m(motion).max() < 0.3


def test_forward_goes_along_the_optical_axis() -> None:
    motion, _ = draw(only('forward'))
    step = motion.cameras.centre_m[:, -1] - motion.cameras.centre_m[:, 0]
    along = (step * motion.cameras.rotation[:, 0, :, 2]).sum(axis=-1)
    assert (along > 0.85 * path_m(motion)[:, -1]).all()
    assert np.median(along) > 0.5


def test_an_arc_turns_while_it_goes() -> None:
    motion, _ = draw(only('arc'))
    turned, gone = angles(motion)[:, -1], path_m(motion)[:, -1]
    assert np.median(turned) > 8.0 and np.median(gone) > 0.5
    assert turned.min() < 5.0 < 25.0 < turned.max()
    step = motion.cameras.centre_m[:, -1] - motion.cameras.centre_m[:, 0]
    along = (step * motion.cameras.rotation[:, 0, :, 2]).sum(axis=-1)
    assert (along > 0.8 * gone).all()


def test_training_has_arcs_and_test_windows_stay_as_they_are() -> None:
    arc = KINDS.index('arc')
    assert training_motion(1.0).weights[arc] > 0.0 and WINDOW_MOTION.weights[arc] == 0.0
    assert sum(training_motion(1.0).weights) == pytest.approx(1.0)


def test_sideways_goes_across_it() -> None:
    motion, _ = draw(only('sideways'))
    step = motion.cameras.centre_m[:, -1] - motion.cameras.centre_m[:, 0]
    across = np.abs((step * motion.cameras.rotation[:, 0, :, 0]).sum(axis=-1))
    assert (across > 0.95 * path_m(motion)[:, -1]).all()
    assert angles(motion).max() < 10.0


def test_stop_stays() -> None:
    motion, _ = draw(only('stop'))
    assert path_m(motion).max() < 0.02
    assert angles(motion).max() < 2.0
    assert (path_m(motion).max(axis=1) == 0.0).mean() == pytest.approx(0.5, abs=0.15)


def test_orbit_keeps_looking_at_the_same_place() -> None:
    motion, _ = draw(only('orbit'))
    centre, axis = motion.cameras.centre_m, motion.cameras.rotation[..., 2]
    first, last = axis[:, 0, :2], axis[:, -1, :2]
    # Where the two optical axes cross in plan, both cameras are equally far away.
    cross = first[:, 0] * last[:, 1] - first[:, 1] * last[:, 0]
    offset = centre[:, -1, :2] - centre[:, 0, :2]
    near = (offset[:, 0] * last[:, 1] - offset[:, 1] * last[:, 0]) / cross
    far = (offset[:, 0] * first[:, 1] - offset[:, 1] * first[:, 0]) / cross
    assert np.median(np.abs(near / far - 1.0)) < 0.02
    assert np.median(angles(motion)[:, -1]) > 30.0


def test_random_views_have_wide_baselines_of_one_place() -> None:
    motion, _ = draw(only('random'))
    assert np.median(path_m(motion)[:, 1:]) > 0.7
    assert np.median(angles(motion)[:, 1:]) > 15.0


def test_less_motion_is_less() -> None:
    little, _ = draw(only('forward', 0.1))
    much, _ = draw(only('forward', 1.0))
    assert np.median(path_m(little)[:, -1]) < 0.2 * np.median(path_m(much)[:, -1])


def test_order_of_frames() -> None:
    config = only('forward')
    natural, _ = draw(config)
    backwards, _ = draw(MotionConfig(config.weights, 1.0, 1.0, shuffled=0.0, backwards=1.0))
    assert np.array_equal(natural.cameras.centre_m[:, ::-1], backwards.cameras.centre_m)
    shuffled, _ = draw(MotionConfig(config.weights, 1.0, 1.0, shuffled=1.0, backwards=0.0))
    assert not np.array_equal(natural.cameras.centre_m, shuffled.cameras.centre_m)
    assert np.array_equal(
        np.sort(natural.cameras.centre_m, axis=1), np.sort(shuffled.cameras.centre_m, axis=1)
    )
    assert (np.diff(shuffled.stamp_s, axis=1) > 0.0).all()


@pytest.mark.parametrize(
    'wrong',
    [
        {'weights': (1.0,)},
        {'weights': (0.0,) * len(KINDS)},
        {'weights': (-1.0, *(1.0,) * (len(KINDS) - 1))},
        {'least': 0.5, 'most': 0.4},
        {'most': 1.5},
        {'tan_half_fov': (0.0, 1.0)},
        {'tan_half_fov': (1.0, 0.5)},
    ],
)
def test_wrong_configurations_are_refused(wrong: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(UsageError, match=r'motion|field of view'):
        MotionConfig(**wrong)  # type: ignore[arg-type]


@given(st.floats(-3.1, 3.1), st.floats(-0.9, 0.9), st.floats(-0.3, 0.3))
def test_look_rotation_is_a_rotation_that_looks_there(
    heading: float, slope: float, roll: float
) -> None:
    plane = np.array([np.cos(heading), np.sin(heading)])
    forward = climbing(plane, np.array(slope))
    matrix = look_rotation(forward, np.array(roll))
    assert matrix @ matrix.T == pytest.approx(np.eye(3), abs=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1.0)
    assert matrix[:, 2] == pytest.approx(forward)
    # Without roll the image's x axis is level and its y axis points down.
    level = look_rotation(forward, np.array(0.0))
    assert level[2, 0] == 0.0
    assert level[2, 1] < 0.0
    # Roll is about the optical axis, by twice the angle of the half tangent.
    turned = np.arccos(np.clip(level[:, 0] @ matrix[:, 0], -1.0, 1.0))
    assert turned == pytest.approx(2.0 * np.arctan(abs(roll)), abs=1e-6)
