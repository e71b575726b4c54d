# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Calibration: step by step, deterministic, resumable, better than rounding to nearest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import SMALL, SMALL_FRAMES, SMALL_SIZE, lively
from torch import Tensor

from qvggt_ros.errors import CalibrationError
from qvggt_ros.export.golden import noise_windows
from qvggt_ros.quantization.calibrate import (
    QuantiseConfig,
    Quantised,
    quantise,
)
from qvggt_ros.quantization.fold import all_blocks
from qvggt_ros.quantization.layers import enable, quantised_layers
from qvggt_ros.quantization.learn import LearnConfig
from qvggt_ros.quantization.recipe import METHODS, PRECISIONS
from qvggt_ros.quantization.smoothing import fold_smoothing
from qvggt_ros.quantization.walk import WalkState, walk_steps
from qvggt_ros.vggt import VGGT

WINDOWS = noise_windows(6, SMALL_FRAMES, SMALL_SIZE, seed=5)
FAST = QuantiseConfig(learn=None)


def images(windows: np.ndarray = WINDOWS) -> Tensor:
    return torch.from_numpy(windows).permute(0, 1, 4, 2, 3).float() / 255


@torch.inference_mode()
def answers(model: VGGT) -> Tensor:
    out = model(images())
    return torch.cat([out['pose_enc'].flatten(), out['depth'].log().flatten()])


def error(found: Quantised) -> float:
    wanted = answers(lively(SMALL))
    return float((answers(found.model) - wanted).norm() / wanted.norm())


def test_the_steps_are_the_network() -> None:
    model = lively(SMALL)
    state = WalkState(images())
    with torch.inference_mode():
        for step in walk_steps(model, SMALL_SIZE, SMALL_FRAMES):
            state = step.run(state)
        wanted = model(images())
    assert state.pose_enc is not None and state.raw_depth is not None
    torch.testing.assert_close(state.pose_enc, wanted['pose_enc'])
    depth = state.raw_depth[:, 0].exp().unflatten(0, (-1, SMALL_FRAMES))
    torch.testing.assert_close(depth, wanted['depth'][..., 0])


@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('method', METHODS)
def test_every_method_runs_at_every_precision(precision: str, method: str) -> None:
    found = quantise(lively(SMALL), WINDOWS[:2], precision, method, FAST)
    assert error(found) < (0.05 if precision == 'w8a8' else 0.6)
    assert all(np.isfinite(report.relative_error) for report in found.layers.values())
    assert list(found.step_errors)[-1] == 'depth_head'


def test_dsfq_loses_less_than_rounding_to_nearest() -> None:
    for precision in ('w4a16', 'w4a4'):
        rounded = error(quantise(lively(SMALL), WINDOWS, precision, 'rtn', FAST))
        assert error(quantise(lively(SMALL), WINDOWS, precision, 'dsfq', FAST)) < 0.8 * rounded


def first_block_error(config: QuantiseConfig) -> float:
    # Only there are the inputs the same with and without what was learned before.
    found = quantise(lively(SMALL), WINDOWS, 'w4a4', 'dsfq', config)
    return found.step_errors['aggregator.patch_embed.blocks.0']


def test_the_learned_stage_improves_ranges_that_were_not_searched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unsearched = replace(METHODS['dsfq'], search=False, compensate=False)
    monkeypatch.setitem(METHODS, 'dsfq', unsearched)
    learned = first_block_error(QuantiseConfig(learn=LearnConfig(epochs=10)))
    assert learned < 0.95 * first_block_error(FAST)


def test_the_learned_stage_keeps_what_it_cannot_improve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, 'dsfq', replace(METHODS['dsfq'], compensate=False))
    wild = LearnConfig(epochs=2, smoothing_rate=3.0, clip_rate=3.0, bias_rate=3.0)
    assert first_block_error(QuantiseConfig(learn=wild)) == first_block_error(FAST)


def test_the_same_seed_gives_the_same_network() -> None:
    one, other = (quantise(lively(SMALL), WINDOWS, 'w4a4', 'dsfq', FAST) for _ in range(2))
    for a, b in zip(
        one.model.state_dict().values(), other.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)
    third = quantise(lively(SMALL), WINDOWS, 'w4a4', 'dsfq', QuantiseConfig(seed=1, learn=None))
    assert not torch.equal(answers(one.model), answers(third.model))


def test_folded_smoothing_is_the_same_function() -> None:
    found = quantise(lively(SMALL), WINDOWS, 'w8a8', 'dsfq', FAST)
    assert any(layer.plan.smoothing == 'norm' for _, layer in quantised_layers(found.model))
    enable(found.model, False)
    before = answers(found.model.double().float())
    fold_smoothing(found.model)
    torch.testing.assert_close(answers(found.model), before, atol=1e-4, rtol=1e-4)
    assert all(layer.plan.smoothing == 'none' for _, layer in quantised_layers(found.model))
    # The biases were corrected, so that this float network is close to the original, not equal.
    wanted = answers(lively(SMALL))
    assert float((before - wanted).norm() / wanted.norm()) < 0.05


@pytest.mark.parametrize('precision', ['w8a8', 'w4a16'])
def test_a_network_that_is_used_up_gives_the_same_integers(precision: str) -> None:
    kept = quantise(lively(SMALL), WINDOWS, precision, 'dsfq', FAST)
    used = lively(SMALL)
    found = quantise(used, WINDOWS, precision, 'dsfq', replace(FAST, consume=True))
    assert found.model is used and found.layers == kept.layers
    torch.testing.assert_close(answers(found.model), answers(kept.model))
    for model in (kept.model, found.model):
        fold_smoothing(model)
    # A last bit in the camera head's inputs moves the second of their two integers now and then.
    torch.testing.assert_close(answers(found.model), answers(kept.model), atol=3e-4, rtol=1e-4)
    layers = dict(quantised_layers(kept.model))
    for name, layer in quantised_layers(found.model):
        assert not len(layer.weight) and layer.integers.dtype == torch.int8
        integers, steps = layers[name].integer_weight()
        assert (layer.integers == integers).float().mean() > 0.999
        torch.testing.assert_close(layer.integer_steps[..., 0], steps)


class InterruptedHereError(Exception):
    pass


def test_an_interrupted_calibration_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    whole = quantise(lively(SMALL), WINDOWS, 'w4a4', 'dsfq', FAST)
    seen: list[str] = []

    def stop(what: str, done: int, total: int) -> None:
        seen.append(what)
        if done == total // 2:
            raise InterruptedHereError

    with pytest.raises(InterruptedHereError):
        quantise(lively(SMALL), WINDOWS, 'w4a4', 'dsfq', FAST, stop, tmp_path)
    files = sorted(tmp_path.iterdir())
    assert 3 < len(files) < 12
    files[0].write_bytes(b'damaged')
    resumed = quantise(lively(SMALL), WINDOWS, 'w4a4', 'dsfq', FAST, state_dir=tmp_path)
    torch.testing.assert_close(answers(resumed.model), answers(whole.model), atol=0, rtol=0)


def test_activations_that_are_not_finite_are_named() -> None:
    model = lively(SMALL)
    with torch.no_grad():
        all_blocks(model)[3].mlp.fc1.bias[0] = torch.inf
    with pytest.raises(CalibrationError, match=r'frame_blocks\.1\.mlp\.fc2: its input is not fin'):
        quantise(model, WINDOWS, 'w8a8', 'rtn', FAST)


def test_no_windows_no_calibration() -> None:
    with pytest.raises(CalibrationError, match='no windows'):
        quantise(lively(SMALL), WINDOWS[:0], 'w8a8', 'rtn', FAST)
