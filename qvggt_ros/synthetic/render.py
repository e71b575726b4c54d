# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""From rooms and cameras to light: hits, surfaces, lamps.

Everything here is elementwise over pixels, so a picture does not depend on its batch, the number
of threads or the device. That also forbids sums whose order may vary, fused operations, and
division by Python numbers (which some devices turn into a multiplication).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qvggt_ros.synthetic import arrays, scene
from qvggt_ros.synthetic.arrays import Array, Device
from qvggt_ros.synthetic.materials import MATERIAL_FIELDS
from qvggt_ros.synthetic.raycast import Cameras, Rays, cast, make_rays
from qvggt_ros.synthetic.scene import DECALS, FACES, LIGHTS, MATERIALS, SLOTS, Rooms
from qvggt_ros.synthetic.seeds import FloatArray
from qvggt_ros.synthetic.textures import albedo

_FACE_WORD = 0x3C6EF372 | 1


@dataclass(frozen=True)
class Tables:
    """What hits look up: float32 columns over flattened [B * rows]."""

    geometry: dict[str, Array]  # [B * SLOTS]
    face_material: Array  # int32 [B * SLOTS * FACES]
    decals: list[list[Array]]  # [DECALS][6] of [B * SLOTS * FACES]
    materials: dict[str, Array]  # [B * MATERIALS]
    hash_words: Array  # int32 [B]
    lights: Array  # [B, LIGHTS, 6], position and power
    ambient: Array  # [B, 3]


def make_tables(rooms: Rooms, device: Device) -> Tables:
    """Bring the rooms' parameters to the device."""

    def to_device(values: np.ndarray) -> Array:
        return arrays.from_numpy(np.ascontiguousarray(values, dtype=np.float32), device)

    geometry = {'cos': rooms.yaw_cos, 'sin': rooms.yaw_sin}
    for axis, letter in enumerate('xyz'):
        geometry[f'centre_{letter}'] = rooms.centre_m[:, :, axis]
        geometry[f'half_{letter}'] = rooms.half_m[:, :, axis]
    decals = [
        [to_device(rooms.decals[:, :, :, slot, k]).reshape(-1) for k in range(6)]
        for slot in range(DECALS)
    ]
    lights = np.concatenate([rooms.light_m, rooms.light_rgb], axis=2)
    return Tables(
        geometry={name: to_device(values).reshape(-1) for name, values in geometry.items()},
        face_material=arrays.from_numpy(rooms.face_material.astype(np.int32), device).reshape(-1),
        decals=decals,
        materials={name: to_device(rooms.materials[name]).reshape(-1) for name in MATERIAL_FIELDS},
        hash_words=arrays.from_numpy(rooms.hash_words, device),
        lights=to_device(lights),
        ambient=to_device(rooms.ambient_rgb),
    )


@arrays.quiet
def render_light(
    rooms: Rooms,
    cameras: Cameras,
    width: int,
    height: int,
    device: Device,
    samples: int = 1,
) -> tuple[list[Array], Array]:
    """Render all frames of all rooms, up to the sensor.

    Args:
        rooms: B rooms.
        cameras: B x S cameras.
        width: pixels.
        height: pixels.
        device: where to compute: a device of PyTorch's, or 'numpy'.
        samples: samples per pixel along each axis; depth always is that of the pixel's centre.

    Returns:
        linear light, three channels of float32 [B, S, H, W], and z-depth [B, S, H, W] in metres.

    """
    tables = make_tables(rooms, device)
    columns = np.arange(width, dtype=np.float64) - 0.5 * width
    rows = np.arange(height, dtype=np.float64) - 0.5 * height
    sample_per_m = 1.0 / (cameras.focal_px[:, 0] * samples)  # size of a sample 1 m away
    rays = make_rays(rooms, cameras, columns, rows, device)
    depth, slot = cast(rays)
    if samples == 1:
        return shade(rays, tables, depth, slot, sample_per_m), depth
    offsets = (np.arange(samples, dtype=np.float64) + 0.5) / samples - 0.5
    light: list[Array] = []
    for right in offsets:
        for down in offsets:
            rays = make_rays(rooms, cameras, columns + right, rows + down, device)
            sample = shade(rays, tables, *cast(rays), sample_per_m)
            light = [a.add_(b) for a, b in zip(light, sample, strict=True)] if light else sample
    return [channel.mul_(1.0 / (samples * samples)) for channel in light], depth


def shade(rays: Rays, tables: Tables, depth: Array, slot: Array, pixel: FloatArray) -> list[Array]:
    """Return the light that reaches each pixel, three channels of [B, S, H, W]."""
    shape = depth.shape
    number = np.arange(shape[0], dtype=np.int32).reshape(-1, 1, 1, 1)
    room = arrays.from_numpy(number, depth.device)
    slot_row = (slot + room * SLOTS).reshape(-1)
    point = [
        (rays.direction(rays.world, axis) * depth).add_(rays.centre_m[:, :, axis, None, None])
        for axis in range(3)
    ]
    surface = _surface(tables, slot.reshape(-1), slot_row, [p.reshape(-1) for p in point])
    face_row = surface.face + slot_row * FACES
    material = _material(tables, surface, face_row)
    material += (room * MATERIALS).expand(shape).reshape(-1)
    fields = {name: column.index_select(0, material) for name, column in tables.materials.items()}
    # The face's number within its room: a picture must not depend on its place in the batch.
    own_face = surface.face + slot.reshape(-1) * FACES
    seed = own_face * _FACE_WORD + tables.hash_words[:, None, None, None].expand(shape).reshape(-1)
    footprint = _footprint(rays, depth, surface, pixel)
    rgb = albedo(surface.u_m, surface.v_m, footprint, seed, fields)
    return _lit(tables, surface, point, rgb, fields['emission'], shape)


@dataclass(frozen=True)
class _Surface:
    """Where and how flat pixels hit: face number, coordinates on it, normal in the world."""

    face: Array
    u_m: Array
    v_m: Array
    normal: list[Array]
    crevice: Array  # 0 in the open, 1 in a room's corner or at a piece's foot


def _surface(tables: Tables, slot: Array, slot_row: Array, point: list[Array]) -> _Surface:
    look = {name: column.index_select(0, slot_row) for name, column in tables.geometry.items()}
    offset = [p - look[f'centre_{letter}'] for p, letter in zip(point, 'xyz', strict=True)]
    local = [
        (look['cos'] * offset[0]).add_(look['sin'] * offset[1]),
        (look['cos'] * offset[1]).sub_(look['sin'] * offset[0]),
        offset[2],
    ]
    unit = [p / look[f'half_{letter}'] for p, letter in zip(local, 'xyz', strict=True)]
    normal = _normal(slot, unit, look)
    size = [n.abs() for n in normal]
    along_x = size[0] >= arrays.maximum(size[1], size[2])
    along_y = size[1] >= size[2]
    inside = (slot == 0) | (slot >= scene.FIRST_NICHE)
    lead = arrays.where(along_x, unit[0], arrays.where(along_y, unit[1], unit[2]))
    axis = arrays.where(along_x, 0, arrays.where(along_y, 2, 4)).int()
    inwards = arrays.where(inside, -1.0, 1.0)
    turned = [
        (look['cos'] * normal[0]).sub_(look['sin'] * normal[1]).mul_(inwards),
        (look['sin'] * normal[0]).add_(look['cos'] * normal[1]).mul_(inwards),
        normal[2] * inwards,
    ]
    return _Surface(
        face=axis + (lead > 0.0),
        u_m=arrays.where(along_x, local[1], local[0]),
        v_m=arrays.where(along_x | along_y, local[2], local[1]),
        normal=turned,
        crevice=_crevice(unit, inside, point[2]),
    )


def _normal(slot: Array, unit: list[Array], look: dict[str, Array]) -> list[Array]:
    """Return outward unit normals in the slot's own axes."""
    x, y, z = unit
    size = [p.abs() for p in unit]
    box_x = size[0] >= arrays.maximum(size[1], size[2])
    box_y = ~box_x & (size[1] >= size[2])
    is_cylinder = (slot >= scene.FIRST_CYLINDER) & (slot < scene.FIRST_ELLIPSOID)
    is_ball = (slot >= scene.FIRST_ELLIPSOID) & (slot < scene.FIRST_NICHE)
    round_side = (x * x).add_(y * y)
    is_side = is_cylinder & (round_side >= z * z)
    is_cap = is_cylinder & ~is_side
    is_round = is_side | is_ball
    cap = ~box_x & ~box_y | is_cap
    flat = [box_x & ~is_cap, box_y & ~is_cap, cap]
    bent = [x / look['half_x'], y / look['half_y'], z / look['half_z']]
    bent[2] = arrays.where(is_ball, bent[2], 0.0)
    length = (bent[0] * bent[0]).add_(bent[1] * bent[1]).add_(bent[2] * bent[2])
    length = arrays.sqrt_(length).clamp_(min=1e-9)
    return [
        arrays.where(is_round, b / length, arrays.copysign(f.float(), p))
        for b, f, p in zip(bent, flat, unit, strict=True)
    ]


def _crevice(unit: list[Array], inside: Array, height_m: Array) -> Array:
    """Guess how much ambient light is hidden, from the distance to the room's edges and floor."""
    x, y, z = (p.abs() for p in unit)
    highest = arrays.maximum(arrays.maximum(x, y), z)
    lowest = arrays.minimum(arrays.minimum(x, y), z)
    middle = x.add_(y).add_(z).sub_(highest).sub_(lowest)
    room = middle.sub_(0.75).mul_(4.0).clamp_(0.0, 1.0)
    foot = (1.0 - 3.0 * height_m).clamp_(0.0, 1.0)
    hidden = arrays.where(inside, room, foot)
    return hidden.mul_(hidden)


def _material(tables: Tables, surface: _Surface, face_row: Array) -> Array:
    """Return the material number of each pixel: the face's own or that of a decal on it."""
    chosen = tables.face_material.index_select(0, face_row)
    for columns in tables.decals:
        u, v, half_u, half_v, border, material = (
            column.index_select(0, face_row) for column in columns
        )
        gap = arrays.minimum(half_u - (surface.u_m - u).abs_(), half_v - (surface.v_m - v).abs_())
        own = arrays.where(gap > border, material, float(MATERIALS - 1)).int()
        chosen = arrays.where(gap > 0.0, own, chosen)
    return chosen


def _footprint(rays: Rays, depth: Array, surface: _Surface, pixel: FloatArray) -> Array:
    """Return the size of a pixel on the surface, metres: wider where the view is oblique."""
    normal = [n.reshape(depth.shape) for n in surface.normal]
    facing, square = arrays.zeros_like(depth), arrays.zeros_like(depth)
    for axis in range(3):
        direction = rays.direction(rays.world, axis)
        facing += direction * normal[axis]
        square += direction.mul_(direction)
    # Between the short axis (1) and the long axis (1 / cosine) of the footprint.
    stretch = arrays.sqrt_((facing.abs_() / arrays.sqrt_(square)).clamp_(min=0.1))
    size = arrays.from_numpy(pixel.astype(np.float32), depth.device)[:, None, None, None]
    return ((depth * size) / stretch).reshape(-1)


def _lit(
    tables: Tables,
    surface: _Surface,
    point: list[Array],
    rgb: list[Array],
    emission: Array,
    shape: tuple[int, ...],
) -> list[Array]:
    """Lambert's law with two lamps, ambient light from above, darker crevices."""
    normal = [n.reshape(shape) for n in surface.normal]
    shares = []
    for lamp in range(LIGHTS):
        towards = [tables.lights[:, lamp, k, None, None, None] - point[k] for k in range(3)]
        square = (towards[0] * towards[0]).add_(towards[1] * towards[1])
        square.add_(towards[2] * towards[2])
        facing = (towards[0] * normal[0]).add_(towards[1] * normal[1])
        facing.add_(towards[2] * normal[2]).clamp_(min=0.0)
        shares.append(facing / (arrays.sqrt(square) * (square + 0.5)))
    open_sky = (normal[2] * 0.25 + 0.75) * (1.0 - 0.6 * surface.crevice.reshape(shape))
    glow = emission.reshape(shape)
    light = []
    for channel in range(3):
        total = open_sky * tables.ambient[:, channel, None, None, None]
        for lamp in range(LIGHTS):
            total += shares[lamp] * tables.lights[:, lamp, 3 + channel, None, None, None]
        light.append(total.add_(glow).mul_(rgb[channel].reshape(shape)))
    return light
