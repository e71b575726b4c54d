# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One table of parameters: declared, described, ranged, validated as a whole, and documented."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_harness import Ros, ros

from qvggt_ros.errors import UsageError
from qvggt_ros.node.parameters import (
    PARAMETER_NAMES,
    NodeSettings,
    declare_parameters,
    read_settings,
    rule_broken,
    validate_change,
)

DEFAULTS = {spec.name: spec.default for spec in fields(NodeSettings)}


def declared(made: Ros, **overrides: Any) -> Node:
    node: Node = made.add(
        Node(
            'parameters',
            context=made.context,
            parameter_overrides=[
                Parameter(name, value=value) for name, value in overrides.items()
            ],
        )
    )
    declare_parameters(node)
    node.add_on_set_parameters_callback(lambda changes: validate_change(node, changes))
    return node


def test_each_is_declared_with_meaning_and_range() -> None:
    with ros() as made:
        node = declared(made)
        assert read_settings(node) == NodeSettings()
        for spec in fields(NodeSettings):
            descriptor = node.describe_parameter(spec.name)
            assert descriptor.description == spec.metadata['meaning'] != ''
            assert descriptor.read_only == spec.metadata['read_only']
            number = isinstance(spec.default, (int, float)) and not isinstance(spec.default, bool)
            assert bool(descriptor.integer_range or descriptor.floating_point_range) == number


def test_the_parameter_file_holds_all_and_their_defaults(project_dir: Path) -> None:
    content = yaml.safe_load((project_dir / 'config' / 'reconstruct.yaml').read_text())
    assert content['/**']['ros__parameters'] == DEFAULTS


@pytest.mark.parametrize(
    ('name', 'value', 'accepted'),
    [
        ('max_points', 5000, True),
        ('max_points', 0, False),
        ('min_confidence', 0.5, False),
        ('publish_tf', False, True),
        ('save_map_path', '', False),
        ('stride', 3, False),  # read-only
        ('bundle', '/other', False),  # read-only
    ],
)
def test_a_running_node_takes_good_changes_only(name: str, value: Any, accepted: bool) -> None:
    with ros() as made:
        node = declared(made)
        (result,) = node.set_parameters([Parameter(name, value=value)])
        assert result.successful == accepted
        assert bool(result.reason) != accepted
        assert node.get_parameter(name).value == (value if accepted else DEFAULTS[name])


@pytest.mark.parametrize(
    ('overrides', 'words'),
    [
        ({'image_transport': 'theora'}, "image_transport is 'theora': must be one of raw"),
        ({'preprocess_mode': 'stretch'}, 'must be one of crop, pad'),
        ({'image_reliability': 'maybe'}, 'must be one of auto'),
        ({'window_frames': 4, 'stride': 4}, 'windows must overlap'),
        ({'window_frames': 1}, 'windows must overlap'),
        ({'map_frame': ''}, 'map_frame is empty'),
        ({'engine': 'cuda'}, 'must be one of onnxruntime, tensorrt, tensorrt_rtx'),
    ],
)
def test_settings_that_break_a_rule_are_refused(overrides: dict[str, Any], words: str) -> None:
    with ros() as made:
        node = declared(made, **overrides)
        with pytest.raises(UsageError, match=words):
            read_settings(node)


def test_overrides_out_of_range_do_not_start() -> None:
    with ros() as made, pytest.raises(Exception, match='max_voxels'):
        declared(made, max_voxels=0)


def test_defaults_break_no_rule_and_know_their_parts() -> None:
    assert rule_broken(DEFAULTS) == ''
    settings = NodeSettings(stride=3, voxel_size=0.5, max_points=7)
    config = settings.reconstruction_config()
    assert (config.stride, config.max_points) == (3, 7)
    assert settings.voxel_map_config().voxel_size == 0.5
    assert len(PARAMETER_NAMES) == len(set(PARAMETER_NAMES)) == len(DEFAULTS)
