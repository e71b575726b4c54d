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
import torch

from qvggt_ros.synthetic import scene
from qvggt_ros.synthetic.materials import MATERIAL_FIELDS
from qvggt_ros.synthetic.raycast import Cameras, Rays, cast, make_rays
from qvggt_ros.synthetic.scene import DECALS, FACES, LIGHTS, MATERIALS, SLOTS, Rooms
from qvggt_ros.synthetic.seeds import FloatArray
from qvggt_ros.synthetic.textures import albedo

_FACE_WORD = 0x3C6EF372 | 1


@dataclass(frozen=True)
class Tables:
    """What hits look up: float32 columns over flattened [B * rows]."""

    geometry: dict[str, torch.Tensor]  # [B * SLOTS]
    face_material: torch.Tensor  # int32 [B * SLOTS * FACES]
    decals: list[list[torch.Tensor]]  # [DECALS][6] of [B * SLOTS * FACES]
    materials: dict[str, torch.Tensor]  # [B * MATERIALS]
    hash_words: torch.Tensor  # int32 [B]
    lights: torch.Tensor  # [B, LIGHTS, 6], position and power
    ambient: torch.Tensor  # [B, 3]


def make_tables(rooms: Rooms, device: torch.device) -> Tables:
    """Bring the rooms' parameters to the device."""

    def to_device(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device)

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
        face_material=torch.from_numpy(rooms.face_material.astype(np.int32)).to(device).view(-1),
        decals=decals,
        materials={name: to_device(rooms.materials[name]).reshape(-1) for name in MATERIAL_FIELDS},
        hash_words=torch.from_numpy(rooms.hash_words).to(device),
        lights=to_device(lights),
        ambient=to_device(rooms.ambient_rgb),
    )


def render_light(
    rooms: Rooms,
    cameras: Cameras,
    width: int,
    height: int,
    device: torch.device,
    samples: int = 1,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Render all frames of all rooms, up to the sensor.

    Args:
        rooms: B rooms.
        cameras: B x S cameras.
        width: pixels.
        height: pixels.
        device: where to compute.
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
    light: list[torch.Tensor] = []
    for right in offsets:
        for down in offsets:
            rays = make_rays(rooms, cameras, columns + right, rows + down, device)
            sample = shade(rays, tables, *cast(rays), sample_per_m)
            light = [a.add_(b) for a, b in zip(light, sample, strict=True)] if light else sample
    return [channel.mul_(1.0 / (samples * samples)) for channel in light], depth


def shade(
    rays: Rays, tables: Tables, depth: torch.Tensor, slot: torch.Tensor, pixel: FloatArray
) -> list[torch.Tensor]:
    """Return the light that reaches each pixel, three channels of [B, S, H, W]."""
    shape = depth.shape
    room = torch.arange(shape[0], dtype=torch.int32, device=depth.device)[:, None, None, None]
    slot_row = (slot + room * SLOTS).view(-1)
    point = [
        (rays.direction(rays.world, axis) * depth).add_(rays.centre_m[:, :, axis, None, None])
        for axis in range(3)
    ]
    surface = _surface(tables, slot.view(-1), slot_row, [p.view(-1) for p in point])
    face_row = surface.face + slot_row * FACES
    material = _material(tables, surface, face_row)
    material += (room * MATERIALS).expand(shape).reshape(-1)
    fields = {name: column.index_select(0, material) for name, column in tables.materials.items()}
    # The face's number within its room: a picture must not depend on its place in the batch.
    own_face = surface.face + slot.view(-1) * FACES
    seed = own_face * _FACE_WORD + tables.hash_words[:, None, None, None].expand(shape).reshape(-1)
    footprint = _footprint(rays, depth, surface, pixel)
    rgb = albedo(surface.u_m, surface.v_m, footprint, seed, fields)
    return _lit(tables, surface, point, rgb, fields['emission'], shape)


@dataclass(frozen=True)
class _Surface:
    """Where and how flat pixels hit: face number, coordinates on it, normal in the world."""

    face: torch.Tensor
    u_m: torch.Tensor
    v_m: torch.Tensor
    normal: list[torch.Tensor]
    crevice: torch.Tensor  # 0 in the open, 1 in a room's corner or at a piece's foot


def _surface(
    tables: Tables, slot: torch.Tensor, slot_row: torch.Tensor, point: list[torch.Tensor]
) -> _Surface:
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
    along_x = size[0] >= torch.maximum(size[1], size[2])
    along_y = size[1] >= size[2]
    inside = (slot == 0) | (slot >= scene.FIRST_NICHE)
    lead = torch.where(along_x, unit[0], torch.where(along_y, unit[1], unit[2]))
    axis = torch.where(along_x, 0, torch.where(along_y, 2, 4)).to(torch.int32)
    inwards = torch.where(inside, -1.0, 1.0)
    turned = [
        (look['cos'] * normal[0]).sub_(look['sin'] * normal[1]).mul_(inwards),
        (look['sin'] * normal[0]).add_(look['cos'] * normal[1]).mul_(inwards),
        normal[2] * inwards,
    ]
    return _Surface(
        face=axis + (lead > 0.0),
        u_m=torch.where(along_x, local[1], local[0]),
        v_m=torch.where(along_x | along_y, local[2], local[1]),
        normal=turned,
        crevice=_crevice(unit, inside, point[2]),
    )


def _normal(
    slot: torch.Tensor, unit: list[torch.Tensor], look: dict[str, torch.Tensor]
) -> list[torch.Tensor]:
    """Return outward unit normals in the slot's own axes."""
    x, y, z = unit
    size = [p.abs() for p in unit]
    box_x = size[0] >= torch.maximum(size[1], size[2])
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
    bent[2] = torch.where(is_ball, bent[2], 0.0)
    length = (bent[0] * bent[0]).add_(bent[1] * bent[1]).add_(bent[2] * bent[2]).sqrt_()
    length.clamp_(min=1e-9)
    return [
        torch.where(is_round, b / length, torch.copysign(f.to(torch.float32), p))
        for b, f, p in zip(bent, flat, unit, strict=True)
    ]


def _crevice(
    unit: list[torch.Tensor], inside: torch.Tensor, height_m: torch.Tensor
) -> torch.Tensor:
    """Guess how much ambient light is hidden, from the distance to the room's edges and floor."""
    x, y, z = (p.abs() for p in unit)
    highest = torch.maximum(torch.maximum(x, y), z)
    lowest = torch.minimum(torch.minimum(x, y), z)
    middle = x.add_(y).add_(z).sub_(highest).sub_(lowest)
    room = middle.sub_(0.75).mul_(4.0).clamp_(0.0, 1.0)
    foot = (1.0 - 3.0 * height_m).clamp_(0.0, 1.0)
    hidden = torch.where(inside, room, foot)
    return hidden.mul_(hidden)


def _material(tables: Tables, surface: _Surface, face_row: torch.Tensor) -> torch.Tensor:
    """Return the material number of each pixel: the face's own or that of a decal on it."""
    chosen = tables.face_material.index_select(0, face_row)
    for columns in tables.decals:
        u, v, half_u, half_v, border, material = (
            column.index_select(0, face_row) for column in columns
        )
        gap = torch.minimum(half_u - (surface.u_m - u).abs_(), half_v - (surface.v_m - v).abs_())
        own = torch.where(gap > border, material, float(MATERIALS - 1)).to(torch.int32)
        chosen = torch.where(gap > 0.0, own, chosen)
    return chosen


def _footprint(
    rays: Rays, depth: torch.Tensor, surface: _Surface, pixel: FloatArray
) -> torch.Tensor:
    """Return the size of a pixel on the surface, metres: wider where the view is oblique."""
    normal = [n.view(depth.shape) for n in surface.normal]
    facing, square = torch.zeros_like(depth), torch.zeros_like(depth)
    for axis in range(3):
        direction = rays.direction(rays.world, axis)
        facing += direction * normal[axis]
        square += direction.mul_(direction)
    # Between the short axis (1) and the long axis (1 / cosine) of the footprint.
    stretch = (facing.abs_() / square.sqrt_()).clamp_(min=0.1).sqrt_()
    size = torch.from_numpy(pixel.astype(np.float32)).to(depth.device)[:, None, None, None]
    return ((depth * size) / stretch).view(-1)


def _lit(
    tables: Tables,
    surface: _Surface,
    point: list[torch.Tensor],
    rgb: list[torch.Tensor],
    emission: torch.Tensor,
    shape: torch.Size,
) -> list[torch.Tensor]:
    """Lambert's law with two lamps, ambient light from above, darker crevices."""
    normal = [n.view(shape) for n in surface.normal]
    shares = []
    for lamp in range(LIGHTS):
        towards = [tables.lights[:, lamp, k, None, None, None] - point[k] for k in range(3)]
        square = (towards[0] * towards[0]).add_(towards[1] * towards[1])
        square.add_(towards[2] * towards[2])
        facing = (towards[0] * normal[0]).add_(towards[1] * normal[1])
        facing.add_(towards[2] * normal[2]).clamp_(min=0.0)
        shares.append(facing / (square.sqrt() * (square + 0.5)))
    open_sky = (normal[2] * 0.25 + 0.75) * (1.0 - 0.6 * surface.crevice.view(shape))
    glow = emission.view(shape)
    light = []
    for channel in range(3):
        total = open_sky * tables.ambient[:, channel, None, None, None]
        for lamp in range(LIGHTS):
            total += shares[lamp] * tables.lights[:, lamp, 3 + channel, None, None, None]
        light.append(total.add_(glow).mul_(rgb[channel].view(shape)))
    return light
