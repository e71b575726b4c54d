# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The network's sizes: the published ones, plain values and back, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvggt_ros.errors import UsageError
from qvggt_ros.vggt import VGGTConfig


@pytest.mark.parametrize('config', [VGGTConfig.vggt_1b(), VGGTConfig.demo()])
def test_plain_values_survive_json(config: VGGTConfig) -> None:
    assert VGGTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_published_sizes_are_the_defaults() -> None:
    config = VGGTConfig.vggt_1b()
    assert config.pretrain_grid == (37, 37)
    assert (config.head_width, config.special_tokens) == (64, 5)
    assert config.point_head and config.track_head
    assert not VGGTConfig.vggt_1b(track_head=False).track_head


@pytest.mark.parametrize('missing', sorted(VGGTConfig().to_dict()))
def test_a_missing_key_is_named(missing: str) -> None:
    values = VGGTConfig().to_dict()
    del values[missing]
    with pytest.raises(UsageError, match=f"'{missing}' is missing"):
        VGGTConfig.from_dict(values)


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(UsageError, match="'colour' is not known"):
        VGGTConfig.from_dict({**VGGTConfig().to_dict(), 'colour': 1})


@pytest.mark.parametrize(
    ('change', 'complaint'),
    [
        ({'width': 1022}, 'multiple of heads'),
        ({'width': 96}, 'multiple of 4'),
        ({'width': '1024'}, 'width'),
        ({'width': True}, 'width'),
        ({'heads': 0}, 'at least 1'),
        ({'patch_size': 16}, 'multiples of the patch size 16'),
        ({'taps': (4, 11, 17, 24)}, 'taps must rise'),
        ({'taps': (4, 4, 17, 23)}, 'taps must rise'),
        ({'taps': (4, 11, 17)}, 'taps'),
        ({'taps': (-1, 11, 17, 23)}, 'at least 0'),
        ({'camera_heads': 3}, 'camera_heads'),
        ({'dpt_channels': (256, 510, 1024, 1024)}, 'dpt_channels'),
        ({'rope_base': 1.0}, 'rope_base'),
        ({'layer_scale_init': float('nan')}, 'finite'),
        ({'point_head': 1}, 'point_head'),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as caught:
        replace(VGGTConfig(), **change)
    assert '\n' not in str(caught.value)


@given(
    st.sampled_from(sorted(VGGTConfig().to_dict())),
    st.one_of(st.none(), st.text(), st.lists(st.integers()), st.floats(), st.integers()),
)
def test_any_value_is_taken_or_refused_in_one_line(key: str, value: object) -> None:
    try:
        config = VGGTConfig.from_dict({**VGGTConfig().to_dict(), key: value})
    except UsageError as error:
        assert '\n' not in str(error)
    else:
        assert VGGTConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(('height', 'width'), [(0, 14), (14, 0), (15, 14), (14, 20), (-14, 14)])
def test_an_image_that_patches_do_not_tile_is_refused(height: int, width: int) -> None:
    with pytest.raises(UsageError, match=f'{width}x{height}'):
        VGGTConfig().grid(height, width)


def test_grid_is_rows_then_columns() -> None:
    assert VGGTConfig().grid(392, 518) == (28, 37)
