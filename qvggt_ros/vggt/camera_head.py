# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Camera tokens to camera parameters, refined over a few iterations."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from qvggt_ros.vggt.config import VGGTConfig
from qvggt_ros.vggt.layers import Block, Mlp

POSE_CHANNELS = 9  # translation 3, quaternion x y z w 4, field of view h and w in radians 2
CAMERA_EPS = 1e-5
MODULATED_EPS = 1e-6
# A new network starts near the identity rotation and this field of view, where relu has a slope.
INITIAL_FOV_RAD = 1.0


class CameraHead(nn.Module):
    """Attention among the frames' camera tokens; each iteration adds to the last estimate."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.config = config
        width = 2 * config.width
        self.token_norm = nn.LayerNorm(width, eps=CAMERA_EPS)
        self.trunk_norm = nn.LayerNorm(width, eps=CAMERA_EPS)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE_CHANNELS))
        self.embed_pose = nn.Linear(POSE_CHANNELS, width)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))
        self.trunk = nn.Sequential(
            *(
                Block(
                    width,
                    config.camera_heads,
                    mlp_ratio=config.mlp_ratio,
                    eps=CAMERA_EPS,
                    layer_scale_init=config.layer_scale_init,
                )
                for _ in range(config.camera_depth)
            )
        )
        self.pose_branch = Mlp(width, config.width, POSE_CHANNELS)

    def initial_bias(self) -> Tensor:
        """Return the last layer's bias with which the iterations add up to a plain camera."""
        plain = torch.tensor([0, 0, 0, 0, 0, 0, 1, INITIAL_FOV_RAD, INITIAL_FOV_RAD])
        return plain / self.config.camera_iterations

    def forward(self, camera_tokens: Tensor) -> list[Tensor]:
        """Map camera tokens [B, S, 2D] to one pose encoding [B, S, 9] per iteration, best last."""
        tokens = self.token_norm(camera_tokens)
        plain = functional.layer_norm(tokens, tokens.shape[-1:], eps=MODULATED_EPS)
        estimate: Tensor | None = None
        estimates = []
        for _ in range(self.config.camera_iterations):
            if estimate is not None:
                estimate = estimate.detach()  # each iteration learns its own step, as in RAFT
            known = self.empty_pose_tokens if estimate is None else estimate
            modulation = self.poseLN_modulation(self.embed_pose(known))
            shift, scale, gate = modulation.chunk(3, dim=-1)
            features = self.trunk(gate * (plain * (1 + scale) + shift) + tokens)
            step = self.pose_branch(self.trunk_norm(features))
            estimate = step if estimate is None else estimate + step
            estimates.append(activate_pose(estimate))
        return estimates


def activate_pose(raw: Tensor) -> Tensor:
    """Return a raw estimate [..., 9] with its fields of view made non-negative (0 can occur)."""
    return torch.cat([raw[..., :7], raw[..., 7:].relu()], dim=-1)
