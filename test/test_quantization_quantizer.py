# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Numbers to integers and back: worked by hand, and as ONNX Runtime does it."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from qvggt_ros.quantization.quantizer import (
    fake_quantise,
    fake_quantise_tokens,
    fake_quantise_twice,
    integer_range,
    search_activation_clip,
    search_weight_clip,
    step_of,
    to_integers,
    weight_blocks,
)


def test_ranges_are_those_of_signed_types() -> None:
    assert integer_range(8) == (-128, 127) and integer_range(4) == (-8, 7)


def test_halves_go_to_the_even_neighbour_and_the_ends_saturate() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 126.6, 500.0, -127.6, -500.0])
    assert to_integers(x, torch.tensor(1.0), 8).tolist() == [0, 2, 2, 0, -2, 127, 127, -128, -128]
    assert to_integers(x, torch.tensor(1.0), 4).tolist() == [0, 2, 2, 0, -2, 7, 7, -8, -8]


def quantize_linear(x: np.ndarray, step: float) -> np.ndarray:
    """Run ONNX Runtime's QuantizeLinear with an int8 zero point of 0."""
    graph = helper.make_graph(
        [helper.make_node('QuantizeLinear', ['x', 'step', 'zero'], ['y'])],
        'g',
        [helper.make_tensor_value_info('x', TensorProto.FLOAT, [None])],
        [helper.make_tensor_value_info('y', TensorProto.INT8, [None])],
        [
            helper.make_tensor('step', TensorProto.FLOAT, [], [step]),
            helper.make_tensor('zero', TensorProto.INT8, [], [0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 21)])
    model.ir_version = 10
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return np.asarray(session.run(None, {'x': x})[0])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-4, 1.0))
def test_integers_are_those_of_onnx_runtime(seed: int, step: float) -> None:
    x = np.random.default_rng(seed).normal(0, 50 * step, 257).astype(np.float32)
    step32 = torch.tensor(step, dtype=torch.float32)
    found = to_integers(torch.from_numpy(x), step32, 8).numpy()
    assert (found == quantize_linear(x, float(step32))).all()


@given(st.floats(1e-3, 1e3), st.sampled_from([4, 8]))
def test_the_largest_magnitude_is_kept_and_errors_stay_below_half_a_step(
    scale: float, bits: int
) -> None:
    x = torch.linspace(-scale, scale, 101, dtype=torch.float64)
    step = step_of(x.abs().amax(), bits)
    y = fake_quantise(x, step, bits)
    assert float((y - x).abs().max()) <= float(step) / 2 * (1 + 1e-9)
    assert float(y[-1]) == pytest.approx(scale)


@given(st.floats(1e-3, 1e3))
def test_two_integers_keep_sixteen_bits(scale: float) -> None:
    x = torch.linspace(-scale, scale, 1001, dtype=torch.float64)
    step = step_of(x.abs().amax(), 8)
    y = fake_quantise_twice(x, step)
    assert float((y - x).abs().max()) <= float(step) / 508 * (1 + 1e-9)


def test_gradients_pass_rounding_and_stop_at_the_clip() -> None:
    x = torch.tensor([0.3, 2.2, 50.0], requires_grad=True)
    fake_quantise(x, torch.tensor(1.0), 4).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1, 1, 0]


def test_blocks_split_rows_along_the_inputs() -> None:
    weight = torch.arange(12.0).reshape(2, 6)
    assert weight_blocks(weight, None).shape == (2, 1, 6)
    assert weight_blocks(weight, 3)[1].tolist() == [[6, 7, 8], [9, 10, 11]]


def test_a_weight_that_nothing_reads_does_not_widen_the_range() -> None:
    weight = torch.cat([torch.randn(4, 63), torch.full((4, 1), 5.0)], dim=1)
    ignored = torch.ones(64)
    ignored[-1] = 0
    clip = search_weight_clip(weight, ignored, 4, None)
    assert clip.shape == (4, 1, 1) and float(clip.max()) < 0.8
    assert float(search_weight_clip(weight, torch.ones(64), 8, None).min()) > 0.9


def test_outliers_that_cancel_in_the_product_are_clipped() -> None:
    torch.manual_seed(0)
    rows = torch.randn(200, 16)
    rows[:20, 0] = rows[:20, 1] = 1000.0
    weight = torch.randn(8, 16)
    weight[:, 1] = -weight[:, 0]
    largest = rows.abs().amax()

    def quantised(share: float) -> torch.Tensor:
        return fake_quantise(rows, step_of(share * largest, 8), 8)

    assert search_activation_clip(rows, torch.ones(200), weight, quantised) < 0.02
    weight[:, 1] = weight[:, 0]
    assert search_activation_clip(rows, torch.ones(200), weight, quantised) > 0.5


def test_tokens_by_hand() -> None:
    x = torch.tensor([[7.0, -3.2, 0.4, 1.6], [0.7, 0.32, -0.04, 0.16]])
    wanted = torch.tensor([[7.0, -3.0, 0.0, 2.0], [0.7, 0.3, 0.0, 0.2]])
    assert torch.allclose(fake_quantise_tokens(x, 1.0, 4), wanted)
    # Half of the range: the largest number is cut off at 3.5, the step is 0.5.
    halved = fake_quantise_tokens(x[:1], 0.5, 4)
    assert torch.allclose(halved, torch.tensor([[3.5, -3.0, 0.5, 1.5]]))


def test_each_block_of_channels_has_its_own_step() -> None:
    x = torch.tensor([[7.0, -3.2, 0.7, 0.32]])
    wanted = torch.tensor([[7.0, -3.0, 0.7, 0.3]])
    assert torch.allclose(fake_quantise_tokens(x, 1.0, 4, block=2), wanted)
    image = torch.randn(2, 3, 5, 8)
    assert fake_quantise_tokens(image, 1.0, 4, block=4).shape == image.shape


def test_a_range_with_offset_meets_both_ends() -> None:
    x = torch.tensor([[10.0, 25.0, 11.2, 20.7]])
    found = fake_quantise_tokens(x, 1.0, 4, offset=True)
    assert torch.allclose(found, torch.tensor([[10.0, 25.0, 11.0, 21.0]]))


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=4, max_size=4),
    st.sampled_from([4, 8]),
    st.booleans(),
)
def test_a_token_loses_at_most_half_a_step(numbers: list[float], bits: int, offset: bool) -> None:
    x = torch.tensor([numbers])
    reach = float(x.amax() - x.amin()) / (2**bits - 1)
    if not offset:
        reach = float(x.abs().amax()) / (2 ** (bits - 1) - 1)
    error = (fake_quantise_tokens(x, 1.0, bits, offset=offset) - x).abs().amax()
    assert float(error) <= 0.5 * reach + 1e-3


def test_tokens_let_gradients_through() -> None:
    x = torch.randn(3, 8, requires_grad=True)
    share = torch.tensor(0.6, requires_grad=True)
    fake_quantise_tokens(x, share, 4, offset=True).square().sum().backward()
    assert x.grad is not None and share.grad is not None
    assert float(share.grad) != 0 and bool(x.grad.isfinite().all())
