# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a window's pixels by themselves: no other window and no network matters.

These tests come before any statistics of a pool: a pool that is mostly noise is seen through too.
"""

from __future__ import annotations

import itertools

import cv2
import numpy as np
from numpy.typing import NDArray

UInt8Array = NDArray[np.uint8]

# Pictures are tested at this width, so that the limits hold for any size of image.
TEST_WIDTH = 112
BLACK_LEVEL = 10  # of 255: 95 % of a black picture's pixels are below
WHITE_LEVEL, MOST_WHITE = 250, 0.6  # share of pixels that are white in all channels
LEAST_CONTRAST = 3.0  # levels, standard deviation
MOST_ROUGH = 0.5  # 1 where neighbouring pixels are unrelated; pictures stay below 0.3
SAME_PICTURE = 0.5  # levels, mean difference: what encoding one picture twice may leave
SIGNATURE_SIZE = (16, 12)
FLOW_BOX = 11  # pixels, side of the neighbourhoods that are correlated


def picture_fault(window: UInt8Array, least_agreement: float) -> str:
    """Return what makes a window's pixels useless, '' if nothing; no other window matters.

    Args:
        window: uint8 [S, H, W, 3] RGB.
        least_agreement: of consecutive frames, see `agreement`.

    """
    pictures = [_small(frame) for frame in window]
    for number, picture in enumerate(pictures):
        if fault := _frame_fault(picture):
            return f'frame {number} {fault}'
    pairs = list(itertools.pairwise(pictures))
    changes = sum(int(np.mean(cv2.absdiff(a, b)) > SAME_PICTURE) for a, b in pairs)
    if pairs and changes + 1 <= len(pictures) // 2:
        return f'{len(pictures)} frames show {changes + 1} different pictures'
    for number, (before, after) in enumerate(pairs):
        found = agreement(before, after)
        if found < least_agreement:
            return (
                f'frames {number} and {number + 1} do not show the same place: agreement '
                f'{found:.2f}'
            )
    return ''


def agreement(before: UInt8Array, after: UInt8Array) -> float:
    """Return how well two pictures [h, w, 3] match once the motion between them is undone.

    The mean over the first picture of the local correlation (all channels) with the second one,
    which is warped by dense inverse search optical flow (Kroeger et al., ECCV 2016). 1 for the
    same picture; flow bends pictures of different places to 0.1 .. 0.2. Flat parts do not count,
    nor what has left the picture.
    """
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (before, after)]
    height, width = grey[0].shape
    v, u = np.mgrid[:height, :width].astype(np.float32)
    motion = flow.calc(grey[0], grey[1], np.zeros((height, width, 2), np.float32))
    x, y = u + motion[..., 0], v + motion[..., 1]
    warped = cv2.remap(after, x, y, cv2.INTER_LINEAR).astype(np.uint8)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    correlation, textured = _local_correlation(before, warped)
    counted = inside & textured
    return float(correlation[counted].mean()) if counted.any() else 0.0


def signature(window: UInt8Array) -> UInt8Array:
    """Return a window's frames in small and grey, uint8 [S, 12, 16]: copies share it."""
    return np.stack(
        [
            cv2.resize(
                cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY),
                SIGNATURE_SIZE,
                interpolation=cv2.INTER_AREA,
            )
            for frame in window
        ]
    ).astype(np.uint8)


def _small(frame: UInt8Array) -> UInt8Array:
    height = max(1, round(frame.shape[0] * TEST_WIDTH / frame.shape[1]))
    how = cv2.INTER_AREA if frame.shape[1] > TEST_WIDTH else cv2.INTER_NEAREST
    return cv2.resize(frame, (TEST_WIDTH, height), interpolation=how).astype(np.uint8)


def _frame_fault(picture: UInt8Array) -> str:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float64)
    if np.percentile(grey, 95) < BLACK_LEVEL:
        return 'is black'
    white = (picture.min(axis=-1) >= WHITE_LEVEL).mean()
    if white > MOST_WHITE:
        return f'is saturated: {white:.0%} of it is white'
    if grey.std() < LEAST_CONTRAST:
        return f'is empty: contrast {grey.std():.1f} of 255'
    # Of two unrelated pixels the mean squared difference is twice the variance.
    steps = [np.square(np.diff(grey, axis=axis)).mean() for axis in (0, 1)]
    rough = float(np.mean(steps) / (2.0 * grey.var()))
    return f'is static: roughness {rough:.2f}' if rough > MOST_ROUGH else ''


def _local_correlation(
    first: UInt8Array, second: UInt8Array
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the correlation of each pixel's neighbourhoods [h, w], and where there is any."""
    a, b = first.astype(np.float32), second.astype(np.float32)

    def covariance(p: NDArray[np.float32], q: NDArray[np.float32]) -> NDArray[np.float32]:
        box = (FLOW_BOX, FLOW_BOX)
        return np.asarray(
            (cv2.blur(p * q, box) - cv2.blur(p, box) * cv2.blur(q, box)).sum(axis=-1),
            dtype=np.float32,
        )

    variance = covariance(a, a)
    product = np.maximum(variance * covariance(b, b), 1.0)
    return covariance(a, b) / np.sqrt(product), variance > LEAST_CONTRAST**2
