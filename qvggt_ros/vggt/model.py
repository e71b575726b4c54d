# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""VGGT: a window of images in, cameras, depth and points out (Wang et al., CVPR 2025)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qvggt_ros.errors import UsageError
from qvggt_ros.vggt.aggregator import Aggregator, WindowTrace
from qvggt_ros.vggt.camera_head import CameraHead
from qvggt_ros.vggt.config import VGGTConfig
from qvggt_ros.vggt.dpt_head import DPTHead, activate_depth, activate_points
from qvggt_ros.vggt.track_head import TrackHead

# Frames that a dense head decodes at once outside training; bounds memory, changes no number.
DENSE_CHUNK = 8
INIT_STD = 0.02
LAST_LAYER_INIT_STD = 1e-3


class VGGT(nn.Module):
    """The whole network; `encode`, `window` and `decode_depth` are its three exported parts.

    Build it under `with torch.device('meta')` when a checkpoint follows: initialising a billion
    parameters takes longer than reading them.
    """

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.config = config
        self.aggregator = Aggregator(config)
        self.camera_head = CameraHead(config)
        self.depth_head = DPTHead(config, out_channels=2)
        self.point_head = DPTHead(config, out_channels=4) if config.point_head else None
        self.track_head = TrackHead(config) if config.track_head else None
        self._initialise()

    def encode(self, images: Tensor, tables: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Encode frames, each by itself: [n, 3, H, W] in [0, 1] RGB -> tokens [n, P, D]."""
        return self.aggregator.patch_embed(images, tables)

    def window(
        self,
        tokens: Tensor,
        size: tuple[int, int] | None = None,
        trace: WindowTrace | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Relate the frames of windows.

        Args:
            tokens: [B, S, P, D] of `encode`; the first frame's camera is the world.
            size: the images' height and width in pixels; the config's own if None.
            trace: filled with intermediate features if given.

        Returns:
            pose_enc [B, S, 9] (translation, quaternion x y z w, field of view h and w in radians;
            camera-from-world) and the four taps [B, S, P, 2D].

        """
        camera_tokens, taps = self.aggregator(tokens, self._grid(tokens, size), trace)
        return self.camera_head(camera_tokens)[-1], taps

    def decode_depth(
        self, taps: Sequence[Tensor], size: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Decode frames: four taps [k, P, 2D] -> z-depth [k, H, W] and confidence [k, H, W]."""
        return activate_depth(self.depth_head(taps, self._size(size)))

    def decode_points(
        self, taps: Sequence[Tensor], size: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Decode frames: four taps [k, P, 2D] -> world points [k, H, W, 3], conf [k, H, W]."""
        if self.point_head is None:
            raise UsageError('this network has no point head (point_head=False in its config)')
        return activate_points(self.point_head(taps, self._size(size)))

    def forward(
        self,
        images: Tensor,
        depth_frames: Sequence[int] | None = None,
        trace: WindowTrace | None = None,
    ) -> dict[str, Tensor | list[Tensor]]:
        """Reconstruct windows.

        Args:
            images: [B, S, 3, H, W] in [0, 1], RGB, sides multiples of the patch size.
            depth_frames: the k frames whose dense maps are wanted; all (k = S) if None.
            trace: filled with intermediate features if given.

        Returns:
            `pose_enc` [B, S, 9] (see `window`), `depth` [B, k, H, W, 1], `depth_conf`
            [B, k, H, W]; with a point head `world_points` [B, k, H, W, 3] and
            `world_points_conf` [B, k, H, W]; in training mode also `pose_enc_list`, the encoding
            of every iteration.

        """
        size = (images.shape[-2], images.shape[-1])
        batch = images.shape[0]
        tokens = self.encode(images.flatten(0, 1)).unflatten(0, (batch, -1))
        camera_tokens, taps = self.aggregator(tokens, self._grid(tokens, size), trace)
        pose_list = self.camera_head(camera_tokens)
        out: dict[str, Tensor | list[Tensor]] = {'pose_enc': pose_list[-1]}
        if self.training:
            out['pose_enc_list'] = pose_list
        if depth_frames is not None:
            taps = [tap[:, list(depth_frames)] for tap in taps]
        out |= {
            name: value.unflatten(0, (batch, -1))
            for name, value in self._decode_dense([t.flatten(0, 1) for t in taps], size).items()
        }
        return out

    def _decode_dense(self, taps: list[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Run the dense heads on four taps [n, P, 2D], a few frames at a time."""
        frames = taps[0].shape[0]
        chunk = frames if self.training else DENSE_CHUNK
        parts: dict[str, list[Tensor]] = {}
        for start in range(0, frames, max(chunk, 1)):
            some = [tap[start : start + chunk] for tap in taps]
            depth, depth_conf = self.decode_depth(some, size)
            found = {'depth': depth[..., None], 'depth_conf': depth_conf}
            if self.point_head is not None:
                found['world_points'], found['world_points_conf'] = self.decode_points(some, size)
            for name, value in found.items():
                parts.setdefault(name, []).append(value)
        return {name: torch.cat(values) for name, values in parts.items()}

    def _size(self, size: tuple[int, int] | None) -> tuple[int, int]:
        config = self.config
        return (config.pretrain_height, config.pretrain_width) if size is None else size

    def _grid(self, tokens: Tensor, size: tuple[int, int] | None) -> tuple[int, int]:
        """Return the patch grid of an image size and check that the tokens fill it."""
        height, width = self._size(size)
        rows, columns = self.config.grid(height, width)
        if tokens.shape[2] != rows * columns:
            raise UsageError(
                f'{tokens.shape[2]} tokens per frame: an image of {width}x{height} has '
                f'{rows * columns} patches'
            )
        return rows, columns

    @torch.no_grad()
    def _initialise(self) -> None:
        """Give a network that will be trained from scratch its first weights."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if name.rpartition('.')[2] in LEARNED_TOKENS:
                nn.init.trunc_normal_(parameter, std=INIT_STD)
        last = self.camera_head.pose_branch.fc2
        nn.init.trunc_normal_(last.weight, std=LAST_LAYER_INIT_STD)
        last.bias.copy_(self.camera_head.initial_bias().to(last.bias))


# Parameters that are tokens or tables by themselves, by the last part of their key.
LEARNED_TOKENS = frozenset(
    {
        'camera_token',
        'register_token',
        'cls_token',
        'pos_embed',
        'register_tokens',
        'query_ref_token',
        'virual_tracks',
    }
)
