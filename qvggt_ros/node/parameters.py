# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Every parameter of the node in one table: name, default, meaning, range, changeable or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from qvggt_ros.engine import ENGINES
from qvggt_ros.errors import UsageError
from qvggt_ros.reconstruction.align import ALIGN_BY, AlignmentConfig
from qvggt_ros.reconstruction.preprocess import PREPROCESS_MODES
from qvggt_ros.reconstruction.reconstructor import ReconstructionConfig
from qvggt_ros.reconstruction.voxel_map import VoxelMapConfig

IMAGE_TRANSPORTS = ('raw', 'compressed')
RELIABILITIES = ('auto', 'best_effort', 'reliable')


def _fixed(default: Any, meaning: str, allowed: Sequence[Any] = ()) -> Any:
    """Declare a parameter that is set at start only; `allowed`: (low, high), or the words."""
    return _parameter(default, meaning, allowed, read_only=True)


def _live(default: Any, meaning: str, allowed: Sequence[Any] = ()) -> Any:
    """Declare a parameter that can be changed while the node runs."""
    return _parameter(default, meaning, allowed, read_only=False)


def _parameter(default: Any, meaning: str, allowed: Sequence[Any], read_only: bool) -> Any:
    metadata = {'meaning': meaning, 'allowed': tuple(allowed), 'read_only': read_only}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class NodeSettings:
    """The node's parameters. Units: s, pixels, map units (arbitrary scale, first window's)."""

    # --- the engine
    bundle: str = _fixed('', 'Folder of the bundle (engines/NAME). Required.')
    engine: str = _fixed('onnxruntime', 'What runs the bundle.', ENGINES)
    threads: int = _fixed(0, 'CPU threads of the engine; 0 leaves it to the engine.', (0, 256))
    self_check: bool = _fixed(True, 'Run the golden windows before the first frame.')
    autostart: bool = _fixed(False, 'Configure and activate without a lifecycle manager.')
    # --- input
    image_transport: str = _fixed(
        'raw', 'raw, or compressed for <image topic>/compressed.', IMAGE_TRANSPORTS
    )
    image_queue_depth: int = _fixed(20, 'Depth of the image subscription.', (1, 1000))
    image_reliability: str = _fixed(
        'auto', 'auto: reliable if every publisher offers it, else best effort.', RELIABILITIES
    )
    frame_queue: int = _fixed(
        16, 'Frames that may wait for the engine; beyond it the oldest is dropped.', (1, 1000)
    )
    frame_skip: int = _live(
        0, 'Frames skipped after each that is used; they get no pose.', (0, 100)
    )
    use_camera_info: bool = _live(True, 'Take intrinsics from camera_info, where it has come.')
    image_timeout_s: float = _live(
        5.0, 'Silence of the camera after which to warn.', (0.1, 3600.0)
    )
    flush_after_s: float = _live(
        2.0, 'Silence after which waiting frames get their poses; 0 = never.', (0.0, 3600.0)
    )
    # --- reconstruction
    window_frames: int = _fixed(0, "Frames per window; 0 = the bundle's own.", (0, 64))
    stride: int = _fixed(0, 'New frames per window; 0 = half the window.', (0, 63))
    anchor_frames: int = _fixed(2, 'Shared frames that tie a window to the map.', (1, 16))
    alternate_order: bool = _fixed(
        True, 'Run every second window backwards: errors of scale cancel.'
    )
    align_by: str = _fixed(
        'poses',
        'What of shared frames turns a window into the map: poses, or points of their depth.',
        ALIGN_BY,
    )
    preprocess_mode: str = _fixed(
        'crop',
        'crop: cut what the engine cannot take; pad: keep all, fill white.',
        PREPROCESS_MODES,
    )
    max_points: int = _live(100_000, 'Points per window at most.', (100, 2_000_000))
    drop_confidence_share: float = _live(
        0.2, "Share of each frame's pixels to drop, the least confident.", (0.0, 0.99)
    )
    min_confidence: float = _live(1.0, 'Confidence below which points are dropped.', (1.0, 1e6))
    depth_edge_ratio: float = _live(
        0.1, 'Bend of inverse depth that makes an edge, which has no points; 0 = off.', (0.0, 10.0)
    )
    # --- output
    map_frame: str = _fixed('map', 'Frame of poses, points and map; z up, starts at the camera.')
    publish_tf: bool = _live(True, 'Broadcast map -> camera optical frame on /tf.')
    path_length: int = _fixed(1000, 'Poses kept in ~/path.', (1, 100_000))
    voxel_size: float = _fixed(0.02, 'Edge of a voxel of the map.', (1e-6, 1e6))
    max_voxels: int = _fixed(200_000, 'Voxels kept; the longest unseen go first.', (1, 10_000_000))
    map_period_s: float = _live(2.0, 'Time between messages on ~/map.', (0.1, 3600.0))
    save_map_path: str = _live('map.ply', 'File that ~/save_map writes.')

    def reconstruction_config(self) -> ReconstructionConfig:
        """Return the part that concerns the reconstruction."""
        return ReconstructionConfig(
            window_frames=self.window_frames,
            stride=self.stride,
            anchor_frames=self.anchor_frames,
            alternate_order=self.alternate_order,
            alignment=AlignmentConfig(rigid_from=self.align_by),  # type: ignore[arg-type]
            preprocess_mode=self.preprocess_mode,  # type: ignore[arg-type]  # one of the words
            max_points=self.max_points,
            drop_confidence_share=self.drop_confidence_share,
            min_confidence=self.min_confidence,
            depth_edge_ratio=self.depth_edge_ratio,
        )

    def voxel_map_config(self) -> VoxelMapConfig:
        """Return the part that concerns the map."""
        return VoxelMapConfig(voxel_size=self.voxel_size, max_voxels=self.max_voxels)


PARAMETER_NAMES = tuple(f.name for f in fields(NodeSettings))
_ALLOWED = {f.name: f.metadata['allowed'] for f in fields(NodeSettings)}


def declare_parameters(node: Node) -> None:
    """Declare all parameters; rclpy raises on an override of another type or out of range."""
    for spec in fields(NodeSettings):
        node.declare_parameter(spec.name, spec.default, _descriptor(spec.metadata))


def read_settings(node: Node) -> NodeSettings:
    """Return the current parameters.

    Raises:
        UsageError: a value breaks a rule, with the parameter's name, value and rule.

    """
    values = {name: node.get_parameter(name).value for name in PARAMETER_NAMES}
    reason = rule_broken(values)
    if reason:
        raise UsageError(reason)
    return NodeSettings(**values)


def validate_change(node: Node, changes: Sequence[Parameter]) -> SetParametersResult:
    """Say whether changed parameters would make a valid whole; nothing is applied here."""
    values = {name: node.get_parameter(name).value for name in PARAMETER_NAMES}
    values |= {p.name: p.value for p in changes if p.name in values}
    reason = rule_broken(values)
    return SetParametersResult(successful=not reason, reason=reason)


def rule_broken(values: Mapping[str, Any]) -> str:
    """Return which rule the values break, empty when they break none.

    Numeric ranges are in the descriptors, where rclpy holds them.
    """
    for name, allowed in _ALLOWED.items():
        if allowed and isinstance(allowed[0], str) and values[name] not in allowed:
            return f'parameter {name} is {values[name]!r}: must be one of {", ".join(allowed)}'
    for name in ('map_frame', 'save_map_path'):
        if not values[name]:
            return f'parameter {name} is empty: must not be'
    window, stride = values['window_frames'], values['stride']
    if window == 1 or (window and stride >= window):
        return (
            f'parameters window_frames {window} and stride {stride}: windows must overlap, '
            'so at least 2 frames and a stride below them'
        )
    return ''


def _descriptor(metadata: Mapping[str, Any]) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=metadata['meaning'], read_only=metadata['read_only']
    )
    allowed = metadata['allowed']
    if allowed and isinstance(allowed[0], str):
        descriptor.additional_constraints = f'one of {", ".join(allowed)}'
    elif allowed and isinstance(allowed[0], int):
        low, high = allowed
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    elif allowed:
        low, high = allowed
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    return descriptor
