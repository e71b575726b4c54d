# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Images become the network's as in its training, and pixels find their way back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qvggt_ros.errors import ImageError
from qvggt_ros.reconstruction.preprocess import (
    PreprocessMode,
    plan_preprocess,
    plan_training_preprocess,
    preprocess,
    resize_for_engine,
)

SIDES = st.integers(1, 3000)
PATCHES = st.integers(1, 40)
MODES = st.sampled_from(['crop', 'pad'])


@pytest.mark.parametrize('mode', ['crop', 'pad'])
def test_equal_to_upstream_within_one_grey_level(shared_dir: Path, mode: PreprocessMode) -> None:
    with Image.open(shared_dir / 'data/redkitchen/frame-000030.color.jpg') as file:
        image = np.asarray(file.convert('RGB'))
    with Image.open(shared_dir / f'parity/preprocess_{mode}_frame-000030.png') as file:
        wanted = np.asarray(file)
    plan = plan_training_preprocess(640, 480, mode)
    result = resize_for_engine(image, plan)
    assert result.shape == wanted.shape
    assert np.abs(result.astype(int) - wanted.astype(int)).max() <= 1
    network = preprocess(image, plan)
    assert network.shape == (3, *wanted.shape[:2]) and network.dtype == np.float32
    np.testing.assert_allclose(network.transpose(1, 2, 0) * 255, wanted, atol=1.001)


@pytest.mark.parametrize(
    ('width', 'height', 'wanted'),
    [
        (640, 480, (518, 392)),
        (1920, 1080, (518, 294)),
        (1500, 1000, (518, 350)),
        (1241, 376, (518, 154)),
        (480, 640, (518, 518)),
    ],
)
def test_training_sizes(width: int, height: int, wanted: tuple[int, int]) -> None:
    plan = plan_training_preprocess(width, height)
    assert (plan.engine_width, plan.engine_height) == wanted


def test_portrait_loses_rows_evenly_when_cropped() -> None:
    plan = plan_training_preprocess(480, 640)
    assert (plan.resized_width, plan.resized_height) == (518, 686)  # round(690.67 / 14) * 14
    assert (plan.offset_x, plan.offset_y) == (0, (686 - 518) // 2)


def test_engine_of_trainings_rounding_gets_trainings_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    ours = resize_for_engine(image, plan_preprocess(640, 480, 518, 392))
    training = resize_for_engine(image, plan_training_preprocess(640, 480))
    np.testing.assert_array_equal(ours, training)


def test_wide_image_for_a_narrower_engine_loses_columns() -> None:
    plan = plan_preprocess(1280, 720, 112, 84)
    assert (plan.resized_width, plan.resized_height) == (154, 84)
    assert (plan.offset_x, plan.offset_y) == (21, 0)


def test_pad_is_white_and_centred() -> None:
    plan = plan_preprocess(112, 56, 112, 84, mode='pad')
    result = resize_for_engine(np.zeros((56, 112, 3), np.uint8), plan)
    assert (result[:14] == 255).all() and (result[70:] == 255).all()
    assert (result[14:70] == 0).all()
    assert plan.valid_region() == (slice(14, 70), slice(0, 112))


@given(SIDES, SIDES, PATCHES, PATCHES, MODES)
def test_plan_covers_or_fits(
    width: int, height: int, columns: int, rows: int, mode: PreprocessMode
) -> None:
    plan = plan_preprocess(width, height, columns * 14, rows * 14, mode)
    spare_width = plan.resized_width - plan.engine_width
    spare_height = plan.resized_height - plan.engine_height
    assert 0 in (spare_width, spare_height)
    assert min(spare_width, spare_height) >= 0 if mode == 'crop' else True
    if mode == 'pad' and min(spare_width, spare_height) < 0:
        assert max(spare_width, spare_height) == 0
    assert plan.offset_x == int(spare_width / 2) and plan.offset_y == int(spare_height / 2)


@given(SIDES, SIDES, PATCHES, PATCHES, MODES, st.floats(0, 1), st.floats(0, 1))
def test_pixels_and_intrinsics_go_there_and_back(
    width: int, height: int, columns: int, rows: int, mode: PreprocessMode, x: float, y: float
) -> None:
    plan = plan_preprocess(width, height, columns * 14, rows * 14, mode)
    pixel = np.array([x * width, y * height])
    there = plan.engine_from_image_matrix() @ [*pixel, 1]
    np.testing.assert_allclose(plan.image_from_engine_pixels(there[:2]), pixel, atol=1e-6)
    k = np.array([[500.0, 0, width / 2], [0, 510.0, height / 3], [0, 0, 1]])
    back = plan.image_from_engine_intrinsics(plan.engine_from_image_intrinsics(k))
    np.testing.assert_allclose(back, k, rtol=1e-9, atol=1e-6)


def test_pixel_map_agrees_with_the_resize_itself() -> None:
    """A bright square's centre of mass moves as the pixel map says, crop and half pixels too."""
    image = np.zeros((240, 400, 3), np.uint8)
    image[60:81, 180:201] = 255
    plan = plan_preprocess(400, 240, 140, 112)
    result = resize_for_engine(image, plan)[..., 0].astype(float)
    v, u = np.mgrid[: plan.engine_height, : plan.engine_width]
    centre = [(u * result).sum() / result.sum(), (v * result).sum() / result.sum()]
    np.testing.assert_allclose(plan.image_from_engine_pixels(centre), [190, 70], atol=0.1)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((0, 480, 518, 392), 'at least 1x1'),
        ((640, 480, 500, 392), 'whole patches'),
        ((640, 480, 518, 392, 'stretch'), "mode 'stretch'"),
    ],
)
def test_unusable_sizes_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        plan_preprocess(*arguments)


def test_image_of_another_size_is_refused() -> None:
    with pytest.raises(ImageError, match=r'must be \(480, 640, 3\) uint8 RGB'):
        resize_for_engine(np.zeros((480, 639, 3), np.uint8), plan_preprocess(640, 480, 518, 392))
