# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The point tracker's parameters, so that a published checkpoint loads to the last key.

Only the weights are kept: this package reconstructs, it does not track points, and the tracker
has no forward pass here. Leave it out (`track_head=False`) unless a checkpoint must be kept whole.
"""

from __future__ import annotations

import torch
from torch import nn

from qvggt_ros.vggt.config import VGGTConfig
from qvggt_ros.vggt.dpt_head import DPTHead
from qvggt_ros.vggt.layers import Mlp

# The published tracker's sizes; a small model has no tracker, so they need no config.
FEATURES = 128
CORRELATIONS = 7 * 81  # 7 levels of 9x9 neighbours
HIDDEN = 384
TOKEN = 388
HEADS = 8
DEPTH = 6
VIRTUAL_TRACKS = 64
FLOW_CHANNELS = FEATURES + 2


class TrackerBlock(nn.Module):
    """Parameters of a self-attention block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(HIDDEN)
        self.attn = nn.MultiheadAttention(HIDDEN, HEADS, batch_first=True)
        self.norm2 = nn.LayerNorm(HIDDEN)
        self.mlp = Mlp(HIDDEN, 4 * HIDDEN)


class TrackerCrossBlock(nn.Module):
    """Parameters of a cross-attention block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(HIDDEN)
        self.norm_context = nn.LayerNorm(HIDDEN)
        self.cross_attn = nn.MultiheadAttention(HIDDEN, HEADS, batch_first=True)
        self.norm2 = nn.LayerNorm(HIDDEN)
        self.mlp = Mlp(HIDDEN, 4 * HIDDEN)


class UpdateFormer(nn.Module):
    """Parameters of the transformer that updates the tracks."""

    def __init__(self) -> None:
        super().__init__()
        self.input_norm = nn.LayerNorm(TOKEN)
        self.input_transform = nn.Linear(TOKEN, HIDDEN)
        self.output_norm = nn.LayerNorm(HIDDEN)
        self.flow_head = nn.Linear(HIDDEN, FLOW_CHANNELS)
        # The published key is misspelt.
        self.virual_tracks = nn.Parameter(torch.zeros(1, VIRTUAL_TRACKS, 1, HIDDEN))
        self.time_blocks = nn.ModuleList(TrackerBlock() for _ in range(DEPTH))
        self.space_virtual_blocks = nn.ModuleList(TrackerBlock() for _ in range(DEPTH))
        self.space_point2virtual_blocks = nn.ModuleList(TrackerCrossBlock() for _ in range(DEPTH))
        self.space_virtual2point_blocks = nn.ModuleList(TrackerCrossBlock() for _ in range(DEPTH))


class Tracker(nn.Module):
    """Parameters of the iterative tracker."""

    def __init__(self) -> None:
        super().__init__()
        self.query_ref_token = nn.Parameter(torch.zeros(1, 2, TOKEN))
        self.corr_mlp = Mlp(CORRELATIONS, HIDDEN, FEATURES)
        self.updateformer = UpdateFormer()
        self.fmap_norm = nn.LayerNorm(FEATURES)
        self.ffeat_norm = nn.GroupNorm(1, FEATURES)
        self.ffeat_updater = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.GELU())
        self.vis_predictor = nn.Sequential(nn.Linear(FEATURES, 1))
        self.conf_predictor = nn.Sequential(nn.Linear(FEATURES, 1))


class TrackHead(nn.Module):
    """Parameters of the track head: a feature decoder and the tracker. It is never run."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.feature_extractor = DPTHead(config, out_channels=0, features=FEATURES)
        self.tracker = Tracker()
