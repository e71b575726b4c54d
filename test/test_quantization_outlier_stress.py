# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Outliers that change no float output, and that a plain quantiser does not survive."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_networks import SMALL, SMALL_FRAMES, SMALL_SIZE, lively
from torch import Tensor, nn

from qvggt_ros.errors import UsageError
from qvggt_ros.export.golden import noise_windows
from qvggt_ros.quantization.outlier_stress import (
    free_units,
    with_channel_outliers,
    with_token_outliers,
)
from qvggt_ros.quantization.seams import model_seams
from qvggt_ros.vggt import VGGT

OUTPUTS = ('pose_enc', 'depth', 'depth_conf')
SPARE_UNITS = (5, 77)


@pytest.fixture(scope='module')
def windows() -> NDArray[np.uint8]:
    return noise_windows(12, SMALL_FRAMES, SMALL_SIZE, seed=3)


def special_network(dtype: torch.dtype = torch.float32, spare: bool = True) -> VGGT:
    """Return a network whose special tokens are unlike patches, with two idle hidden units."""
    model = lively(SMALL, dtype=dtype)
    with torch.no_grad():
        in_common = 2 * torch.randn(SMALL.width, generator=torch.Generator().manual_seed(7))
        model.aggregator.camera_token.add_(in_common)
        model.aggregator.register_token.add_(in_common)
        for name, module in model.named_modules():
            if spare and name.startswith('aggregator.') and name.endswith('mlp.fc2'):
                assert isinstance(module, nn.Linear)
                module.weight[:, SPARE_UNITS] = 0
    return model


@torch.inference_mode()
def outputs(model: VGGT, windows: NDArray[np.uint8]) -> dict[str, Tensor]:
    images = torch.from_numpy(windows).movedim(-1, 2).to(model.aggregator.camera_token) / 255
    return {name: value for name, value in model(images).items() if isinstance(value, Tensor)}


def difference(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Return the largest difference of any output, relative to that output's largest value."""
    return max(
        float((found[name] - wanted[name]).abs().max() / wanted[name].abs().max())
        for name in OUTPUTS
    )


@torch.inference_mode()
def int8_difference(model: VGGT, windows: NDArray[np.uint8]) -> float:
    """Return what static symmetric int8 per tensor on every linear's input does to the outputs."""
    wanted = outputs(model, windows)
    largest: dict[nn.Module, Tensor] = {}

    def watch(layer: nn.Module, args: tuple[Tensor]) -> None:
        largest[layer] = torch.maximum(largest.get(layer, torch.zeros(())), args[0].abs().max())

    def quantise(layer: nn.Module, args: tuple[Tensor]) -> Tensor:
        scale = largest[layer] / 127
        return (args[0] / scale).round().clamp(-127, 127) * scale

    for hook in (watch, quantise):
        linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
        handles = [linear.register_forward_pre_hook(hook) for linear in linears]
        found = outputs(model, windows)
        for handle in handles:
            handle.remove()
    return difference(found, wanted)


def inputs_of(model: VGGT, layer: str, windows: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Return the magnitudes of an aggregator layer's input: [n, 5, C] special, [n, P, C] patch."""
    seen: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_pre_hook(
        lambda _, args: seen.append(args[0].abs())
    )
    outputs(model, windows)
    handle.remove()
    rows, columns = SMALL.pretrain_grid
    special = SMALL.special_tokens
    frames = seen[0].reshape(-1, special + rows * columns, seen[0].shape[-1])
    return frames[:, :special], frames[:, special:]


@pytest.mark.parametrize(
    ('dtype', 'allowed'), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str
)
def test_channel_outliers_change_no_output(
    dtype: torch.dtype, allowed: float, windows: NDArray[np.uint8]
) -> None:
    model = lively(SMALL, dtype=dtype)
    wanted = outputs(model, windows[:3])
    changed = with_channel_outliers(model, seed=1, channels_share=0.2)
    assert difference(outputs(changed, windows[:3]), wanted) < allowed
    assert torch.equal(outputs(model, windows[:3])['depth'], wanted['depth'])


def test_channel_outliers_are_everywhere_and_as_large_as_said() -> None:
    model = lively(SMALL)
    changed = with_channel_outliers(model, seed=1, largest=500)
    places = list(zip(model_seams(changed), model_seams(model), strict=True))
    blocks = SMALL.encoder_depth + 2 * SMALL.aggregator_depth + SMALL.camera_depth
    # The depth head: its norm, three resized taps, seven residual units, the last hidden layer.
    assert len(places) == 3 * blocks + 1 + 3 + 7 + 1 + 1
    for outlying, plain in places:
        channels = len(plain.produced[0])
        factors = (outlying.produced[0] / plain.produced[0]).detach().reshape(channels, -1)[:, 0]
        assert factors.max() == pytest.approx(500, rel=1e-5)
        assert (factors > 1.0001).sum() <= max(1, round(0.03 * channels))


def test_heads_can_be_left_alone() -> None:
    model = lively(SMALL)
    changed = with_channel_outliers(model, seed=1, heads=False)
    names = [
        name
        for name, value in model.named_parameters()
        if not torch.equal(value, changed.get_parameter(name))
    ]
    assert names and all(name.startswith('aggregator.') for name in names)


def test_the_same_seed_gives_the_same_outliers_and_another_one_others() -> None:
    model = lively(SMALL)
    first, again, other = (
        with_channel_outliers(model, seed).aggregator.frame_blocks[0].get_parameter('norm1.weight')
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ('dtype', 'allowed'), [(torch.float32, 1e-3), (torch.float64, 1e-9)], ids=str
)
def test_token_outliers_change_no_output_where_hidden_units_are_idle(
    dtype: torch.dtype, allowed: float, windows: NDArray[np.uint8]
) -> None:
    model = special_network(dtype)
    wanted = outputs(model, windows[:3])
    changed = with_token_outliers(model, 1, windows)
    assert difference(outputs(changed, windows[:3]), wanted) < allowed
    assert torch.equal(outputs(model, windows[:3])['depth'], wanted['depth'])


def test_token_outliers_change_little_where_no_hidden_unit_is_idle(
    windows: NDArray[np.uint8],
) -> None:
    # Random weights have nothing to spare; the demo model loses a hundredth of this.
    model = special_network(spare=False)
    changed = with_token_outliers(model, 1, windows)
    assert difference(outputs(changed, windows[:3]), outputs(model, windows[:3])) < 0.01


def test_massive_activations_are_of_special_tokens_only(windows: NDArray[np.uint8]) -> None:
    changed = with_token_outliers(special_network(), 1, windows, largest=700)
    for block in ('frame_blocks.0', 'global_blocks.0', 'frame_blocks.3', 'global_blocks.3'):
        special, patches = inputs_of(changed, f'aggregator.{block}.mlp.fc2', windows[:3])
        usual = patches.square().mean().sqrt()
        massive = special[..., SPARE_UNITS[0]] / usual
        assert 500 < massive.median() < 1000
        assert torch.equal(special[..., SPARE_UNITS[0]], special[..., SPARE_UNITS[1]])
        assert patches.max() < 30 * usual


def test_a_plain_quantiser_fails_on_outliers_only(windows: NDArray[np.uint8]) -> None:
    model = special_network()
    assert int8_difference(model, windows[:3]) < 0.02
    assert int8_difference(with_channel_outliers(model, 1), windows[:3]) > 0.5
    assert int8_difference(with_token_outliers(model, 1, windows), windows[:3]) > 0.2


def test_spared_units_are_taken_over_by_the_others() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(200, 6))
    inputs[:, 4] = 2 * inputs[:, 0] + 3  # nothing that the others do not know
    fc2 = nn.Linear(6, 3).double()
    x = torch.from_numpy(inputs)
    with torch.no_grad():
        fc2.weight[:, 1] = 0
        wanted = fc2(x)
        units = free_units(fc2, inputs[:50], inputs[50:])
        fc2.weight[:, units] = 0
        assert set(units) in ({1, 4}, {1, 0})
        np.testing.assert_allclose(fc2(x), wanted, atol=1e-4)


@pytest.mark.parametrize('share', [0.0, 1.5, float('nan')])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match='channels_share'):
        with_channel_outliers(lively(SMALL), 0, channels_share=share)


@pytest.mark.parametrize('largest', [0.5, float('nan'), float('inf')])
def test_a_factor_that_makes_nothing_larger_is_refused(
    largest: float, windows: NDArray[np.uint8]
) -> None:
    with pytest.raises(UsageError, match='largest'):
        with_channel_outliers(lively(SMALL), 0, largest=largest)
    with pytest.raises(UsageError, match='largest'):
        with_token_outliers(lively(SMALL), 0, windows, largest=largest)


def test_windows_of_another_kind_are_refused(windows: NDArray[np.uint8]) -> None:
    for wrong in (windows[0], windows[:0], windows.astype(np.float32)):
        with pytest.raises(UsageError, match='must be uint8'):
            with_token_outliers(special_network(), 0, wrong)  # type: ignore[arg-type]


def test_special_tokens_that_look_like_patches_are_refused(windows: NDArray[np.uint8]) -> None:
    model = special_network()
    with torch.no_grad():
        for parameter in model.aggregator.global_blocks[1].get_submodule('norm2').parameters():
            parameter.zero_()
    with pytest.raises(UsageError, match=r'aggregator\.global_blocks\.1: .* look like patches'):
        with_token_outliers(model, 0, windows)
