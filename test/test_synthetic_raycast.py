# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Ray casting against an independent float64 ray tracer, ray by ray and surface by surface."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qvggt_ros.synthetic import scene
from qvggt_ros.synthetic.furnishing import build_rooms
from qvggt_ros.synthetic.motion import MotionConfig, draw_motion
from qvggt_ros.synthetic.raycast import Cameras, cast, make_rays
from qvggt_ros.synthetic.scene import Rooms

WIDTH, HEIGHT = 48, 36
CPU = torch.device('cpu')
Hits = list[tuple[float, int]]


def empty_room(half_x: float = 3.0, half_y: float = 3.0, half_z: float = 1.5) -> Rooms:
    """Return one room without any furniture."""
    rooms = build_rooms([0])
    removed = np.zeros((1, scene.SLOTS), dtype=bool)
    removed[:, 1:] = True
    rooms = rooms.without(removed)
    rooms.half_m[0, 0] = half_x, half_y, half_z
    rooms.centre_m[0, 0] = 0.0, 0.0, half_z
    return rooms


def put(rooms: Rooms, slot: int, centre: tuple[float, ...], half: tuple[float, ...]) -> None:
    rooms.centre_m[0, slot], rooms.half_m[0, slot] = centre, half
    rooms.yaw_cos[0, slot], rooms.yaw_sin[0, slot] = 1.0, 0.0


def level_camera(x: float, y: float, z: float) -> Cameras:
    """Return a camera that looks along +x with a focal length of 40 pixels."""
    rotation = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    return Cameras(rotation[None, None], np.array([[[x, y, z]]]), np.array([[40.0, 40.0]]))


def cast_picture(rooms: Rooms, cameras: Cameras) -> tuple[np.ndarray, np.ndarray]:
    columns = np.arange(WIDTH, dtype=np.float64) - WIDTH / 2
    rows = np.arange(HEIGHT, dtype=np.float64) - HEIGHT / 2
    depth, slot = cast(make_rays(rooms, cameras, columns, rows, CPU))
    return depth.numpy().astype(np.float64), slot.numpy()


def centre_pixel(rooms: Rooms, cameras: Cameras) -> tuple[float, int]:
    depth, slot = cast_picture(rooms, cameras)
    return float(depth[0, 0, HEIGHT // 2, WIDTH // 2]), int(slot[0, 0, HEIGHT // 2, WIDTH // 2])


def test_wall_box_cylinder_and_ball_straight_ahead() -> None:
    camera = level_camera(-2.0, 0.0, 1.0)
    rooms = empty_room()
    assert centre_pixel(rooms, camera) == (pytest.approx(5.0, rel=1e-5), 0)
    put(rooms, scene.FIRST_BOX, (1.0, 0.0, 1.0), (0.5, 0.4, 0.3))
    assert centre_pixel(rooms, camera) == (pytest.approx(2.5, rel=1e-5), scene.FIRST_BOX)
    put(rooms, scene.FIRST_CYLINDER, (0.0, 0.0, 1.0), (0.25, 0.25, 0.5))
    assert centre_pixel(rooms, camera) == (pytest.approx(1.75, rel=1e-5), scene.FIRST_CYLINDER)
    put(rooms, scene.FIRST_ELLIPSOID, (-0.5, 0.0, 1.0), (0.2, 0.3, 0.3))
    assert centre_pixel(rooms, camera) == (pytest.approx(1.3, rel=1e-5), scene.FIRST_ELLIPSOID)


def test_depth_is_along_the_optical_axis_not_along_the_ray() -> None:
    depth, slot = cast_picture(empty_room(half_y=50.0, half_z=50.0), level_camera(-2.0, 0.0, 50.0))
    assert (slot == 0).all()
    assert depth == pytest.approx(5.0, rel=1e-5)


def test_what_is_behind_or_unused_is_not_seen() -> None:
    rooms = empty_room()
    put(rooms, scene.FIRST_BOX, (-2.7, 0.0, 1.0), (0.2, 2.0, 0.9))
    put(rooms, scene.FIRST_CYLINDER, (-2.8, 0.0, 1.0), (0.15, 0.15, 0.9))
    put(rooms, scene.FIRST_ELLIPSOID, (-2.8, 0.0, 1.0), (0.15, 0.15, 0.9))
    _, slot = cast_picture(rooms, level_camera(-2.0, 0.0, 1.0))
    assert (slot == 0).all()


def test_a_niche_opens_the_wall_and_only_where_it_is() -> None:
    rooms, camera = empty_room(), level_camera(-2.0, 0.0, 1.0)
    put(rooms, scene.FIRST_NICHE, (3.5, 0.0, 1.0), (0.5, 0.4, 0.4))
    assert centre_pixel(rooms, camera) == (pytest.approx(6.0, rel=1e-5), scene.FIRST_NICHE)
    _, slot = cast_picture(rooms, camera)
    inside = slot[0, 0] == scene.FIRST_NICHE
    # The mouth, 0.8 m wide at 5 m and 40 px focal length, is 6.4 px wide.
    assert inside.any(axis=0).sum() == 7
    assert inside.any(axis=1).sum() == 7
    # A piece in front of the mouth hides it.
    put(rooms, scene.FIRST_BOX, (1.0, 0.0, 1.0), (0.1, 1.0, 0.9))
    assert centre_pixel(rooms, camera)[1] == scene.FIRST_BOX


def trace(rooms: Rooms, row: int, origin: np.ndarray, ray: np.ndarray) -> tuple[float, int]:
    """Follow one ray through a room by solving for every surface on its own."""
    hits: Hits = []
    for slot in range(1, scene.FIRST_NICHE):
        local, turned, half = in_slot(rooms, row, slot, origin, ray)
        if slot < scene.FIRST_CYLINDER:
            hits += [(t, slot) for t in face_hits(local, turned, half)]
        elif slot < scene.FIRST_ELLIPSOID:
            hits += [(t, slot) for t in cylinder_hits(local, turned, half)]
        else:
            hits += [(t, slot) for t in quadric_hits(local / half, turned / half)]
    local, turned, half = in_slot(rooms, row, 0, origin, ray)
    wall = min(t for t in face_hits(local, turned, half) if t > 0.0)
    end = (wall, 0)
    for slot in range(scene.FIRST_NICHE, scene.SLOTS):
        local, turned, half = in_slot(rooms, row, slot, origin, ray)
        through = sorted(face_hits(local, turned, half))
        if len(through) == 2 and abs(through[0] - wall) < 1e-6:
            end = (through[1], slot)
    return min([hit for hit in hits if hit[0] > 0.02] + [end])


def in_slot(
    rooms: Rooms, row: int, slot: int, origin: np.ndarray, ray: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    angle = np.arctan2(rooms.yaw_sin[row, slot], rooms.yaw_cos[row, slot])
    turn = np.array(
        [[np.cos(angle), np.sin(angle), 0.0], [-np.sin(angle), np.cos(angle), 0.0], [0, 0, 1.0]]
    )
    return turn @ (origin - rooms.centre_m[row, slot]), turn @ ray, rooms.half_m[row, slot]


def face_hits(origin: np.ndarray, ray: np.ndarray, half: np.ndarray) -> list[float]:
    hits = []
    for axis in range(3):
        for side in (-1.0, 1.0):
            t = (side * half[axis] - origin[axis]) / ray[axis]
            point = origin + t * ray
            if all(abs(point[k]) <= half[k] for k in range(3) if k != axis):
                hits.append(float(t))
    return hits


def quadric_hits(origin: np.ndarray, ray: np.ndarray) -> list[float]:
    a, b, c = ray @ ray, 2.0 * origin @ ray, origin @ origin - 1.0
    root = b * b - 4.0 * a * c
    return [float((-b + s * np.sqrt(root)) / (2.0 * a)) for s in (-1, 1)] if root > 0.0 else []


def cylinder_hits(origin: np.ndarray, ray: np.ndarray, half: np.ndarray) -> list[float]:
    sides = quadric_hits(origin[:2] / half[:2], ray[:2] / half[:2])
    hits = [t for t in sides if abs(origin[2] + t * ray[2]) <= half[2]]
    for side in (-1.0, 1.0):
        t = (side * half[2] - origin[2]) / ray[2]
        if np.sum(((origin + t * ray)[:2] / half[:2]) ** 2) <= 1.0:
            hits.append(float(t))
    return hits


def test_furnished_rooms_agree_with_an_independent_tracer() -> None:
    seeds = list(range(12))
    rooms = build_rooms(seeds)
    motion, rooms = draw_motion(seeds, rooms, 2, WIDTH, HEIGHT, MotionConfig())
    cameras = motion.cameras
    depth, slot = cast_picture(rooms, cameras)
    rng = np.random.default_rng(1)
    off, other, kinds = [], 0, set()
    for _ in range(3000):
        row, frame = int(rng.integers(len(seeds))), int(rng.integers(2))
        v, u = rng.integers(HEIGHT), rng.integers(WIDTH)
        focal = cameras.focal_px[row, 0]
        ray = cameras.rotation[row, frame] @ ((u - WIDTH / 2) / focal, (v - HEIGHT / 2) / focal, 1)
        t, hit = trace(rooms, row, cameras.centre_m[row, frame], ray)
        kinds.add(hit)
        if slot[row, frame, v, u] != hit:
            other += 1
        else:
            off.append(abs(depth[row, frame, v, u] / t - 1.0))
    assert other <= 6  # rays along an edge may go either way
    assert np.quantile(off, 0.999) < 1e-4
    assert max(off) < 5e-3  # rays that graze a ball
    assert {0} | set(range(scene.FIRST_NICHE, scene.SLOTS)) <= kinds
    assert len(kinds) > 15


def test_a_ray_parallel_to_every_wall_is_no_trouble() -> None:
    depth, _ = cast_picture(empty_room(), level_camera(0.0, 0.0, 1.5))
    assert np.isfinite(depth).all()
    assert depth[0, 0, HEIGHT // 2, WIDTH // 2] == pytest.approx(3.0, rel=1e-5)
