# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Training losses: VGGT's for cameras and depth, and two that teach matching.

A small network trained from scratch learns depth at once and poses not at all, unless something
tells it which patch of one frame is which patch of another. Two auxiliary losses do. `matching`
asks one attention head of some global blocks to look where geometry says the patch is in the
first frame (cross-entropy over all tokens of the window). `flow` asks the patch tokens for that
position as a number. Both fall away after training: the network's code and keys are VGGT's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the customary name)

from qvggt_ros.synthetic.targets import PatchMatches, WindowTargets


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
    matching: float = 1.0
    flow: float = 1.0


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
        error = F.huber_loss(estimate.float(), target, reduction='none', delta=0.1) / 0.1
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


class FlowHead(nn.Module):
    """Reads from patch tokens how far the patch has moved since the first frame, in patches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., P, width] -> displacement [..., P, 2] (row, column)."""
        return self.linear(self.norm(tokens)).float()


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


def depth_of_frames(targets: WindowTargets, frames: Tensor) -> Tensor:
    """Pick the target depth of the chosen frame numbers: [b, k, H, W] -> [b * k, H, W]."""
    return targets.depth[:, frames].flatten(0, 1)
