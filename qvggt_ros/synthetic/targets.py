# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the network should answer for a rendered window: poses, depth and correspondences.

VGGT's normalisation: everything is expressed in the first frame's camera and divided by the
mean distance of the window's points from it, so a window has no metric scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# A point counts as visible in another frame if the depth seen there agrees to this share.
VISIBLE_DEPTH_TOLERANCE = 0.04


@dataclass(frozen=True)
class WindowTargets:
    """Targets of b windows of s frames.

    Attributes:
        camera_from_first: [b, s, 4, 4], scaled.
        pose_enc: [b, s, 9] translation, quaternion x y z w (w >= 0), field of view h, w (rad).
        depth: [b, s, H, W] z-depth, scaled.
        scale_m: [b] the divisor, metres.

    """

    camera_from_first: Tensor
    pose_enc: Tensor
    depth: Tensor
    scale_m: Tensor


def window_targets(
    depth_m: Tensor, camera_from_world: Tensor, intrinsics: Tensor, pixel_step: int = 1
) -> WindowTargets:
    """Normalise windows as VGGT does (training normalisation of the released code).

    Args:
        depth_m: [b, s, H, W].
        camera_from_world: [b, s, 4, 4].
        intrinsics: [b, s, 3, 3] in pixels.
        pixel_step: the scale is a mean over every n-th row and column.

    """
    camera_from_first = camera_from_world @ rigid_inverse(camera_from_world[:, :1])
    points = unproject(depth_m, intrinsics, pixel_step)
    first_from_camera = rigid_inverse(camera_from_first)
    in_first = transform(first_from_camera[:, :, None, None], points)
    scale_m = in_first.norm(dim=-1).mean(dim=(1, 2, 3)).clamp(1e-6, 1e6)
    scaled = camera_from_first.clone()
    scaled[..., :3, 3] /= scale_m[:, None, None]
    height, width = depth_m.shape[-2:]
    return WindowTargets(
        camera_from_first=scaled,
        pose_enc=encode_pose(scaled, intrinsics, height, width),
        depth=depth_m / scale_m[:, None, None, None],
        scale_m=scale_m,
    )


def rigid_inverse(pose: Tensor) -> Tensor:
    """Invert rigid transforms [..., 4, 4] in closed form."""
    rotation = pose[..., :3, :3].transpose(-1, -2)
    inverse = torch.zeros_like(pose)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3:] = -rotation @ pose[..., :3, 3:]
    inverse[..., 3, 3] = 1
    return inverse


def transform(pose: Tensor, points: Tensor) -> Tensor:
    """Apply [..., 4, 4] to points [..., 3] (leading dimensions broadcast)."""
    return (pose[..., :3, :3] @ points[..., None])[..., 0] + pose[..., :3, 3]


def unproject(depth: Tensor, intrinsics: Tensor, pixel_step: int = 1) -> Tensor:
    """Depth [b, s, H, W] -> points in each camera [b, s, H, W, 3]; integer pixel indices.

    With a `pixel_step` only every n-th row and column, from half a step on.
    """
    height, width = depth.shape[-2:]
    first = pixel_step // 2
    v, u = torch.meshgrid(
        torch.arange(first, height, pixel_step, device=depth.device, dtype=depth.dtype),
        torch.arange(first, width, pixel_step, device=depth.device, dtype=depth.dtype),
        indexing='ij',
    )
    depth = depth[..., first::pixel_step, first::pixel_step]
    focal, centre = _focal_and_centre(intrinsics)
    x = (u - centre[..., 0, None, None]) / focal[..., 0, None, None] * depth
    y = (v - centre[..., 1, None, None]) / focal[..., 1, None, None] * depth
    return torch.stack([x, y, depth], dim=-1)


def encode_pose(camera_from_first: Tensor, intrinsics: Tensor, height: int, width: int) -> Tensor:
    """[b, s, 4, 4] and [b, s, 3, 3] -> VGGT's 9 numbers (absT_quaR_FoV)."""
    focal, _ = _focal_and_centre(intrinsics)
    size = torch.tensor([height, width], device=focal.device, dtype=focal.dtype)
    field_of_view = 2 * torch.atan(size / 2 / focal.flip(-1))
    quaternion = quaternion_from_rotation(camera_from_first[..., :3, :3])
    return torch.cat([camera_from_first[..., :3, 3], quaternion, field_of_view], dim=-1)


def quaternion_from_rotation(rotation: Tensor) -> Tensor:
    """[..., 3, 3] -> [..., 4] x y z w with w >= 0, by the largest of the four components."""
    m = rotation
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    # Row k of the matrix is the quaternion times four times its component k.
    rows = torch.stack(
        [
            torch.stack(
                [
                    1 + 2 * m[..., 0, 0] - trace,
                    m[..., 0, 1] + m[..., 1, 0],
                    m[..., 0, 2] + m[..., 2, 0],
                    m[..., 2, 1] - m[..., 1, 2],
                ],
                dim=-1,
            ),
            torch.stack(
                [
                    m[..., 0, 1] + m[..., 1, 0],
                    1 + 2 * m[..., 1, 1] - trace,
                    m[..., 1, 2] + m[..., 2, 1],
                    m[..., 0, 2] - m[..., 2, 0],
                ],
                dim=-1,
            ),
            torch.stack(
                [
                    m[..., 0, 2] + m[..., 2, 0],
                    m[..., 1, 2] + m[..., 2, 1],
                    1 + 2 * m[..., 2, 2] - trace,
                    m[..., 1, 0] - m[..., 0, 1],
                ],
                dim=-1,
            ),
            torch.stack(
                [
                    m[..., 2, 1] - m[..., 1, 2],
                    m[..., 0, 2] - m[..., 2, 0],
                    m[..., 1, 0] - m[..., 0, 1],
                    1 + trace,
                ],
                dim=-1,
            ),
        ],
        dim=-2,
    )
    largest = torch.diagonal(rows, dim1=-2, dim2=-1).argmax(dim=-1)
    chosen = torch.gather(rows, -2, largest[..., None, None].expand(*largest.shape, 1, 4))[
        ..., 0, :
    ]
    unit = torch.nn.functional.normalize(chosen, dim=-1)
    return torch.where(unit[..., 3:] < 0, -unit, unit)


@dataclass(frozen=True)
class PatchMatches:
    """Where each patch of each frame lies in each frame, by geometry.

    Attributes:
        position: [b, s, s, P, 2] (frame of the patch, frame it is looked for in): row and
            column in units of patches, 0 = centre of the first patch.
        inside: [b, s, s, P] in front of the camera and inside its image.
        visible: [b, s, s, P] inside and not hidden.
        in_camera: [b, s, P, 3] the patch's anchor point in its own camera, scaled.
        in_first: [b, s, P, 3] the same in the first frame's camera.

    """

    position: Tensor
    inside: Tensor
    visible: Tensor
    in_camera: Tensor
    in_first: Tensor


def patch_matches(
    depth: Tensor, camera_from_first: Tensor, intrinsics: Tensor, patch: int
) -> PatchMatches:
    """Follow each patch's anchor pixel (its middle) into all frames of the window.

    Args:
        depth: [b, s, H, W], of the same scale as the poses.
        camera_from_first: [b, s, 4, 4].
        intrinsics: [b, s, 3, 3] pixels.
        patch: side of a patch, pixels.

    """
    b, s, height, width = depth.shape
    half = patch // 2
    anchors = unproject(depth, intrinsics, patch).reshape(b, s, -1, 3)
    first_from_camera = rigid_inverse(camera_from_first)
    in_first = transform(first_from_camera[:, :, None], anchors)
    seen = transform(camera_from_first[:, None, :, None], in_first[:, :, None])
    focal, centre = _focal_and_centre(intrinsics)
    z = seen[..., 2]
    pixel = (
        seen[..., :2] / z.clamp(min=1e-6)[..., None] * focal[:, None, :, None]
        + centre[:, None, :, None]
    )
    inside = (
        (z > 1e-3)
        & (pixel[..., 0] > -0.5)
        & (pixel[..., 0] < width - 0.5)
        & (pixel[..., 1] > -0.5)
        & (pixel[..., 1] < height - 0.5)
    )
    visible = inside & (_depth_disagreement(depth, pixel, z) < VISIBLE_DEPTH_TOLERANCE)
    position = (pixel.flip(-1) - half) / patch
    return PatchMatches(
        position=position,
        inside=inside,
        visible=visible,
        in_camera=anchors,
        in_first=in_first,
    )


def _depth_disagreement(depth: Tensor, pixel: Tensor, z: Tensor) -> Tensor:
    """Relative difference of z [b, s, s, P] and the depth stored at the nearest pixel."""
    b, s, height, width = depth.shape
    column = pixel[..., 0].round().clamp(0, width - 1).long()
    row = pixel[..., 1].round().clamp(0, height - 1).long()
    index = (row * width + column).permute(0, 2, 1, 3).reshape(b, s, -1)
    stored = torch.gather(depth.reshape(b, s, -1), 2, index)
    stored = stored.reshape(b, s, s, -1).permute(0, 2, 1, 3)
    return (stored - z).abs() / z.clamp(min=1e-6)


def _focal_and_centre(intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """[..., 3, 3] -> focal lengths (x, y) and centre (x, y), [..., 2] each, pixels."""
    focal = torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], dim=-1)
    return focal, intrinsics[..., :2, 2]
