# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Training losses: VGGT's for cameras and depth, and some that teach matching and geometry.

A small network trained from scratch learns depth at once and poses not at all, unless something
tells it which patch of one frame is which patch of another. `matching` asks one attention head of
some global blocks to look where geometry says the patch is in the first frame (cross-entropy over
all tokens of the window). The others ask the patch tokens, by a linear layer: `flow` for that
position as a number, `points` for the patch's place in its own camera and in the first one,
`patch_pose` for the pose of its camera. `baseline` weighs a pair's translation by its length, as
the published metric does. What only training needs falls away afterwards: the network's code and
keys are VGGT's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the customary name)

from qvggt_ros.synthetic.targets import PatchMatches

# Where the camera losses turn from squares to magnitudes. Squares hardly see errors of a few
# degrees (0.03 in a quaternion), which are what is left after an hour.
CAMERA_DELTA = 0.02
BASELINE_DELTA = 0.2
# Added to a baseline's length, scene sizes: below it, direction is noise.
SHORT_BASELINE = 0.02


@dataclass(frozen=True)
class LossWeights:
    """How much each term counts."""

    translation: float = 5.0  # normalised units, about scene sizes
    quaternion: float = 10.0  # half a radian's worth each
    field_of_view: float = 2.0  # radians
    camera_iteration_decay: float = 0.6  # VGGT's gamma: earlier iterations count less
    depth: float = 1.0
    depth_gradient: float = 1.0
    confidence_log: float = 0.2  # VGGT's alpha
    baseline: float = 0.5
    matching: float = 1.0
    flow: float = 1.0
    points: float = 1.0
    patch_pose: float = 0.3


def camera_loss(iterations: list[Tensor], target: Tensor, weights: LossWeights) -> Tensor:
    """Huber loss of the nine pose numbers over all refinement iterations (VGGT, section 3.3).

    Args:
        iterations: pose encodings [b, s, 9], first iteration first.
        target: [b, s, 9].
        weights: of the three parts.

    """
    scale = torch.tensor(
        [weights.translation] * 3 + [weights.quaternion] * 4 + [weights.field_of_view] * 2,
        device=target.device,
    )
    total = target.new_zeros(())
    for index, estimate in enumerate(iterations):
        decay = weights.camera_iteration_decay ** (len(iterations) - 1 - index)
        error = F.huber_loss(estimate.float(), target, reduction='none', delta=CAMERA_DELTA)
        error = error / CAMERA_DELTA
        total = total + decay * (error * scale).mean()
    return total / len(iterations)


def depth_loss(
    depth: Tensor, confidence: Tensor, target: Tensor, weights: LossWeights
) -> tuple[Tensor, Tensor]:
    """Confidence-weighted depth error, and the error of its gradients (VGGT, equation 2).

    Args:
        depth: [n, H, W] estimate.
        confidence: [n, H, W], >= 1.
        target: [n, H, W].
        weights: alpha and the two factors.

    """
    depth, confidence = depth.float(), confidence.float()
    error = (depth - target).abs()
    value = confidence * error - weights.confidence_log * torch.log(confidence)
    gradient = confidence.new_zeros(())
    difference = depth - target
    for dim in (-1, -2):
        gradient = gradient + difference.diff(dim=dim).abs().mean()
    return weights.depth * value.mean(), weights.depth_gradient * gradient


def matching_loss(
    query: Tensor, key: Tensor, matches: PatchMatches, grid: tuple[int, int]
) -> Tensor:
    """Cross-entropy between one head's attention and where the patch is in the first frame.

    Args:
        query: [b, s * T, c] of one head after norm and rotation, T = special tokens + patches.
        key: [b, s * T, c].
        matches: geometry; only patches visible in the first frame count.
        grid: rows and columns of patches.

    Returns:
        mean cross-entropy in nats over the counted patches of frames 1..s-1.

    """
    b, s = matches.position.shape[:2]
    tokens, channels = query.shape[1] // s, query.shape[2]
    special = tokens - grid[0] * grid[1]
    rows = query.unflatten(1, (s, tokens))[:, 1:, special:].flatten(1, 2).float()
    logits = rows @ key.float().transpose(-1, -2) / channels**0.5
    log_share = logits.log_softmax(dim=-1)[..., special:tokens]
    position = matches.position[:, 1:, 0].reshape(b, -1, 2)
    target = bilinear_shares(position, grid)
    counted = matches.visible[:, 1:, 0].reshape(b, -1).float()
    cross_entropy = -(target * log_share).sum(dim=-1)
    return (cross_entropy * counted).sum() / counted.sum().clamp(min=1)


def bilinear_shares(position: Tensor, grid: tuple[int, int]) -> Tensor:
    """Spread positions [..., 2] (row, column in patches) over the patches: [..., rows * columns].

    Weights are bilinear between the four nearest patch centres, clamped to the border.
    """
    shares = []
    for axis, count in enumerate(grid):
        centres = torch.arange(count, device=position.device, dtype=position.dtype)
        at = position[..., axis, None].clamp(0, count - 1)
        shares.append((1 - (at - centres).abs()).clamp(min=0))
    return (shares[0][..., :, None] * shares[1][..., None, :]).flatten(-2)


class PatchAnswers(NamedTuple):
    """What a linear layer reads from patch tokens.

    Attributes:
        flow: [..., P, 2] how far the patch has moved since the first frame, in patches (row,
            column).
        points: [..., P, 6] its point in its own camera and in the first one, by `signed_log`.
        pose: [..., P, 7] translation and quaternion of its camera, as in the pose encoding.

    """

    flow: Tensor
    points: Tensor
    pose: Tensor


class PatchHead(nn.Module):
    """Asks patch tokens for their geometry; only training needs it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, 2 + 6 + 7)

    def forward(self, tokens: Tensor) -> PatchAnswers:
        """Read tokens [..., P, width]."""
        return PatchAnswers(*self.linear(self.norm(tokens)).float().split((2, 6, 7), dim=-1))


def signed_log(points: Tensor) -> Tensor:
    """Compress distances as VGGT's point head does: sign(x) log(1 + |x|)."""
    return points.sign() * points.abs().log1p()


def points_loss(points: Tensor, matches: PatchMatches) -> Tensor:
    """Huber loss of the patches' points [b, s, P, 6] in their own and in the first camera."""
    target = signed_log(torch.cat([matches.in_camera, matches.in_first], dim=-1))
    return F.huber_loss(points, target, delta=0.1) / 0.1


def patch_pose_loss(pose: Tensor, target: Tensor, weights: LossWeights) -> Tensor:
    """Huber loss of what each patch [b, s, P, 7] says about its camera; first frame left out."""
    scale = torch.tensor(
        [weights.translation] * 3 + [weights.quaternion] * 4, device=target.device
    )
    wanted = target[:, 1:, None, :7].expand_as(pose[:, 1:])
    error = F.huber_loss(pose[:, 1:], wanted, reduction='none', delta=0.1) / 0.1
    return (error * scale).mean()


def baseline_loss(estimate: Tensor, target: Tensor) -> Tensor:
    """Error of the translation between every two frames, relative to its length.

    The published metric scores the direction of translation alone, so a short baseline counts as
    much as a long one; the camera loss hardly sees it.

    Args:
        estimate: pose encodings [b, s, 9].
        target: [b, s, 9].

    """
    found, wanted = _relative_translations(estimate.float()), _relative_translations(target)
    length = wanted.norm(dim=-1, keepdim=True) + SHORT_BASELINE
    return F.huber_loss(found / length, wanted / length, delta=BASELINE_DELTA) / BASELINE_DELTA


def _relative_translations(pose_enc: Tensor) -> Tensor:
    """Return t_j - R_j R_i^T t_i of all pairs i < j, [b, pairs, 3]."""
    frames = pose_enc.shape[1]
    first, second = torch.triu_indices(frames, frames, 1, device=pose_enc.device)
    translation = pose_enc[..., :3]
    turn = rotation_from_quaternion(pose_enc[..., 3:7])
    relative = turn[:, second] @ turn[:, first].transpose(-1, -2)
    return translation[:, second] - (relative @ translation[:, first, :, None])[..., 0]


def rotation_from_quaternion(quaternion: Tensor) -> Tensor:
    """[..., 4] x y z w, of any length -> rotation [..., 3, 3]."""
    x, y, z, w = F.normalize(quaternion, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def flow_loss(flow: Tensor, matches: PatchMatches, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Huber loss of the displacement to the first frame, and its median error in patches.

    Args:
        flow: [b, s, P, 2].
        matches: patches inside the first frame's image count; hidden ones a fifth.
        grid: rows and columns of patches.

    """
    rows = torch.arange(grid[0], device=flow.device, dtype=flow.dtype)
    columns = torch.arange(grid[1], device=flow.device, dtype=flow.dtype)
    home = torch.stack(torch.meshgrid(rows, columns, indexing='ij'), dim=-1).reshape(-1, 2)
    target = matches.position[:, 1:, 0] - home
    weight = matches.inside[:, 1:, 0].float() * (0.2 + 0.8 * matches.visible[:, 1:, 0].float())
    error = F.huber_loss(flow[:, 1:], target, reduction='none', delta=0.5).sum(dim=-1)
    distance = (flow[:, 1:].detach() - target).norm(dim=-1)[matches.visible[:, 1:, 0]]
    median = distance.median() if distance.numel() else flow.new_zeros(())
    return (error * weight).sum() / weight.sum().clamp(min=1), median


@dataclass(frozen=True)
class LossTerms:
    """The weighted sum and its parts (detached, for the progress line)."""

    total: Tensor
    parts: dict[str, Tensor]


def combine(terms: dict[str, Tensor], figures: dict[str, Tensor]) -> LossTerms:
    """Sum weighted terms; keep them and further figures for the log."""
    total = torch.stack(list(terms.values())).sum()
    parts = {name: value.detach() for name, value in {**terms, **figures}.items()}
    return LossTerms(total=total, parts=parts)
