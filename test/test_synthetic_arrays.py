# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""NumPy's arrays and PyTorch's tensors: the same language, the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from qvggt_ros.synthetic import arrays
from qvggt_ros.synthetic.drive import plan_drive, render_drive
from qvggt_ros.synthetic.sequences import SequenceBatch, render_batch

FIELDS = ('images', 'depth_m', 'camera_from_world', 'intrinsics', 'stamp_s', 'motion_kind')
SEEDS = (7, 18, 20, 104, 10_000, -1, -57, -123_456_789_012)


def fields_of(batch: SequenceBatch) -> dict[str, np.ndarray]:
    return {name: np.asarray(getattr(batch, name)) for name in FIELDS}


def assert_same_bytes(one: SequenceBatch, other: SequenceBatch) -> None:
    for (name, a), b in zip(fields_of(one).items(), fields_of(other).values(), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), name
        assert a.tobytes() == b.tobytes(), name


@pytest.mark.parametrize(('frames', 'samples'), [(4, 1), (2, 2)])
def test_pictures_depth_and_poses_have_the_same_bytes(frames: int, samples: int) -> None:
    with_torch = render_batch(SEEDS, frames, 112, 84, samples=samples)
    with_numpy = render_batch(SEEDS, frames, 112, 84, device='numpy', samples=samples)
    assert isinstance(with_torch.images, torch.Tensor)
    assert isinstance(with_numpy.images, np.ndarray)
    assert_same_bytes(with_torch, with_numpy)


def test_a_drive_has_the_same_bytes() -> None:
    drive = plan_drive(10_093, 4, 160, 120)
    pairs = zip(render_drive(drive), render_drive(drive, 'numpy'), strict=True)
    for with_torch, with_numpy in pairs:
        assert_same_bytes(with_torch, with_numpy)


@pytest.mark.parametrize('device', ['numpy', 'cpu'])
def test_roots_are_rounded_to_the_nearest(device: str) -> None:
    values = np.random.default_rng(1).random(100_000).astype(np.float32) * 100
    expected = np.sqrt(values.astype(np.float64)).astype(np.float32)
    given = arrays.from_numpy(values.copy(), device)
    assert np.array_equal(np.asarray(arrays.sqrt(given)), expected)
    assert np.array_equal(np.asarray(given), values)
    assert arrays.sqrt_(given) is given
    assert np.array_equal(np.asarray(given), expected)


METHODS: dict[str, Callable[[Any, Any], Any]] = {
    'add_': lambda a, b: a.add_(b),
    'sub_': lambda a, b: a.sub_(b),
    'mul_': lambda a, b: a.mul_(b),
    'div_': lambda a, b: a.div_(b),
    'numbers': lambda a, b: a.mul_(0.3).add_(1.7).div_(b),
    'neg_': lambda a, _: a.neg_(),
    'abs': lambda a, _: a.abs(),
    'abs_': lambda a, _: a.abs_(),
    'floor': lambda a, _: a.floor(),
    'clamp': lambda a, _: a.clamp(max=0.5),
    'clamp_': lambda a, _: a.clamp_(-0.5, 0.5),
    'clone': lambda a, b: a.clone().add_(b),
    'copy_': lambda a, b: a.copy_(b),
    'int': lambda a, _: a.int(),
    'hash': lambda a, _: a.int().mul_(0x27D4EB2D).add_(0x165667B1),
    'bits': lambda a, _: arrays.bits_of(a).bitwise_and_(~63).bitwise_or_(5),
    'from_bits': lambda a, _: arrays.from_bits(arrays.bits_of(a) & ~63),
    'float': lambda a, b: (a > b).float(),
    'expand': lambda a, _: a.expand((2, *a.shape)),
    'index_select': lambda a, b: a.index_select(0, (b.abs() * 7.0).int()),
    'where': lambda a, b: arrays.where(a > b, a, b),
    'where number': lambda a, b: arrays.where(a > b, a, 0.0),
    'where numbers': lambda a, b: arrays.where(a > b, 1.0, -1.0),
    'where whole': lambda a, b: arrays.where(a > b, 1, arrays.where(a > 0.0, 2, 4)),
    'maximum': lambda a, b: arrays.maximum(a, b),
    'maximum out': lambda a, b: arrays.maximum(a, b, out=a),
    'minimum': lambda a, b: arrays.minimum(a, b),
    'copysign': lambda a, b: arrays.copysign(a, b),
    'inverse': lambda a, _: arrays.inverse(a),
    'zeros_like': lambda a, _: arrays.zeros_like(a),
    'cat': lambda a, b: arrays.cat([a[None], b[None]], axis=1),
    'sum': lambda a, _: (a * 1000.0).int().reshape(10, 10, 10).sum((1, 2)).float(),
}


@pytest.mark.parametrize('name', METHODS)
def test_arrays_do_as_tensors_do(name: str) -> None:
    rng = np.random.default_rng(2)
    a, b = (rng.uniform(-1.0, 1.0, (2, 1000)) * 10.0).astype(np.float32)
    a[:2] = 0.0, -3.0
    results = []
    for device in ('numpy', 'cpu'):
        first, second = (arrays.from_numpy(values.copy(), device) for values in (a, b))
        with np.errstate(all='ignore'):
            result = METHODS[name](first, second)
        assert result.device == first.device
        # What an operation leaves behind in place counts as well.
        results += [np.asarray(result), np.asarray(first)]
    result, left, expected, expected_left = results
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    assert result.tobytes() == expected.tobytes()
    assert left.tobytes() == expected_left.tobytes()


def test_devices() -> None:
    assert arrays.is_cpu('numpy') and arrays.is_cpu('cpu') and arrays.is_cpu(torch.device('cpu'))
    assert not arrays.is_cpu('meta')
    assert arrays.empty_bytes((2, 3), 'numpy').shape == (2, 3)
    assert arrays.empty_bytes((2, 3), 'meta').dtype == torch.uint8
