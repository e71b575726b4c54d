# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Image sizes as they are typed."""

from __future__ import annotations

import pytest

from qvggt_ros.errors import UsageError
from qvggt_ros.image_size import parse_image_size


def test_size_is_width_then_height() -> None:
    assert parse_image_size('518x392') == (518, 392)
    assert parse_image_size('320X240') == (320, 240)


@pytest.mark.parametrize(
    'text',
    ['518', '518x', 'x392', '0x14', '-14x14', '14x14x14', '14 x 14', '', '14x14\n', '1e3x9'],
)
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match='WIDTHxHEIGHT'):
        parse_image_size(text)
