# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Image sizes as they are typed: WIDTHxHEIGHT."""

from __future__ import annotations

import re

from qvggt_ros.errors import UsageError


def parse_image_size(text: str) -> tuple[int, int]:
    """Return width and height in pixels of 'WxH'; UsageError if it is something else."""
    match = re.fullmatch(r'([1-9]\d{0,4})x([1-9]\d{0,4})', text, re.ASCII | re.IGNORECASE)
    if match is None:
        raise UsageError(f'--size {text!r}: must be WIDTHxHEIGHT in pixels, e.g. 518x392')
    return int(match[1]), int(match[2])
