# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Useless pictures are found by their pixels alone, usable ones pass."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from qvggt_ros.export.golden import noise_windows
from qvggt_ros.quantization.window_faults import agreement, picture_fault, signature

LIMIT = 0.25


def drifting(seed: int = 0) -> np.ndarray:
    return noise_windows(1, 4, (84, 112), seed)[0]


def test_a_picture_has_no_fault_at_any_size() -> None:
    for size in ((84, 112), (42, 56), (252, 336)):
        assert picture_fault(noise_windows(1, 4, size, 1)[0], LIMIT) == ''
    assert picture_fault(drifting()[:1], LIMIT) == ''


@pytest.mark.parametrize('at', [0, 2, slice(None)], ids=['first', 'one', 'all'])
@pytest.mark.parametrize(
    ('kind', 'reason'),
    [('black', 'is black'), ('white', 'is saturated'), ('grey', 'is empty'), ('static', 'static')],
)
def test_a_single_bad_frame_is_a_fault(kind: str, reason: str, at: int | slice) -> None:
    window = drifting().copy()
    rng = np.random.default_rng(0)
    bad = {'black': 3, 'white': 255, 'grey': 120}
    shape = window[at].shape
    window[at] = rng.integers(0, 256, shape) if kind == 'static' else bad[kind]
    number = at if isinstance(at, int) else 0
    found = picture_fault(window, LIMIT)
    assert found.startswith(f'frame {number} ')
    assert reason in found


def test_a_frozen_picture_is_a_fault_even_reencoded() -> None:
    frame = drifting()[0]
    assert 'show 1 different' in picture_fault(np.stack([frame] * 4), LIMIT)
    grain = np.random.default_rng(0).integers(0, 3, (4, *frame.shape)) == 0
    again = frame // 2 + grain.astype(np.uint8)
    assert 'show 1 different' in picture_fault(again, LIMIT)


def test_frames_of_different_places_are_a_fault() -> None:
    window = drifting().copy()
    assert min(agreement(a, b) for a, b in itertools.pairwise(window)) > 0.6
    window[3] = drifting(seed=9)[0]
    assert 'frames 2 and 3 do not show the same place' in picture_fault(window, LIMIT)
    assert picture_fault(window, -1.0) == ''


def test_copies_share_their_signature() -> None:
    window = drifting()
    assert signature(window).shape == (4, 12, 16)
    assert signature(window).dtype == np.uint8
    assert np.array_equal(signature(window), signature(window.copy()))
    apart = np.abs(signature(window).astype(int) - signature(drifting(seed=1)))
    assert apart.max() > 20


def test_agreement_does_not_depend_on_the_number_of_threads() -> None:
    window, threads = drifting(), cv2.getNumThreads()
    found = []
    try:
        for count in (1, 3, 8):
            cv2.setNumThreads(count)
            found.append(agreement(window[0], window[2]))
    finally:
        cv2.setNumThreads(threads)
    assert found == found[:1] * 3
