# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Attention, rotation and the position tables against naive float64 versions."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qvggt_ros.vggt.layers import Attention
from qvggt_ros.vggt.positions import resize_learned, rope_tables, rotate, sine_table

EXACT = 1e-12
Vector = NDArray[np.float64]


def naive_rotation(vector: Vector, row: int, column: int, base: float) -> Vector:
    """Turn one head's vector, pair by pair, as complex numbers."""
    out = vector.copy()
    half, quarter = len(vector) // 2, len(vector) // 4
    for start, position in ((0, row), (half, column)):
        for j in range(quarter):
            turn = cmath.exp(1j * position * base ** (-2 * j / half))
            pair = complex(vector[start + j], vector[start + quarter + j]) * turn
            out[start + j], out[start + quarter + j] = pair.real, pair.imag
    return out


def naive_norm(vector: Vector, gain: Vector, bias: Vector, eps: float) -> Vector:
    return (vector - vector.mean()) / math.sqrt(vector.var() + eps) * gain + bias


def naive_attention(
    layer: Attention, tokens: Vector, places: list[tuple[int, int]], base: float, eps: float
) -> Vector:
    """Compute self-attention of one sequence [L, width] with loops."""
    weights = {key: value.numpy() for key, value in layer.state_dict().items()}
    width, heads = tokens.shape[1], layer.heads
    size = width // heads
    packed = tokens @ weights['qkv.weight'].T + weights['qkv.bias']
    out = np.zeros_like(tokens)
    for head in range(heads):
        span = slice(head * size, (head + 1) * size)
        query, key, value = (packed[:, part * width :][:, span] for part in range(3))
        turned = []
        for name, vectors in (('q_norm', query), ('k_norm', key)):
            gain, bias = weights[f'{name}.weight'], weights[f'{name}.bias']
            turned.append(
                np.stack(
                    [
                        naive_rotation(naive_norm(vector, gain, bias, eps), *place, base)
                        for vector, place in zip(vectors, places, strict=True)
                    ]
                )
            )
        scores = np.exp(turned[0] @ turned[1].T / math.sqrt(size))
        out[:, span] = scores / scores.sum(axis=1, keepdims=True) @ value
    return out @ weights['proj.weight'].T + weights['proj.bias']


def test_attention_with_rotation_equals_the_naive_one() -> None:
    torch.manual_seed(0)
    grid, special, heads, width, frames, base, eps = (2, 3), 5, 3, 48, 2, 100.0, 1e-5
    layer = Attention(width, heads, eps, qk_norm=True).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    layer.requires_grad_(False)
    patches = [(row + 1, column + 1) for row in range(grid[0]) for column in range(grid[1])]
    places = ([(0, 0)] * special + patches) * frames
    tokens = torch.randn(2, len(places), width, dtype=torch.float64)
    rope = rope_tables(grid, special, width // heads, base, torch.float64, torch.device('cpu'))
    found = layer(tokens, rope).numpy()
    for sequence, out in zip(tokens.numpy(), found, strict=True):
        wanted = naive_attention(layer, sequence, places, base, eps)
        assert np.abs(out - wanted).max() < EXACT


@settings(deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 5), st.integers(0, 3), st.sampled_from([4, 8, 16]),
    st.floats(2, 1000), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_rotation_keeps_length_and_leaves_special_tokens(
    rows: int, columns: int, special: int, head_width: int, base: float, seed: int
) -> None:
    tables = rope_tables(
        (rows, columns), special, head_width, base, torch.float64, torch.device('cpu')
    )
    generator = torch.Generator().manual_seed(seed)
    tokens = special + rows * columns
    x = torch.randn(1, 2 * tokens, 2, head_width, dtype=torch.float64, generator=generator)
    turned = rotate(x, *tables)
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=EXACT)
    assert torch.equal(turned[:, :special], x[:, :special])
    last = naive_rotation(x[0, -1, 0].numpy(), rows, columns, base)
    assert np.abs(turned[0, -1, 0].numpy() - last).max() < EXACT


def test_tables_made_under_inference_mode_serve_training() -> None:
    with torch.inference_mode():
        tables = rope_tables((3, 7), 2, 8, 77.0, torch.float32, torch.device('cpu'))
    x = torch.randn(1, 23, 1, 8, requires_grad=True)
    rotate(x, *tables).sum().backward()
    assert x.grad is not None


def test_rotation_keeps_half_precision() -> None:
    tables = rope_tables((2, 2), 1, 8, 100.0, torch.float32, torch.device('cpu'))
    assert rotate(torch.ones(1, 5, 1, 8, dtype=torch.bfloat16), *tables).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ('rows', 'columns', 'width_px', 'height_px'), [(3, 5, 70, 42), (4, 2, 28, 56)]
)
def test_sine_table_equals_the_formula(
    rows: int, columns: int, width_px: int, height_px: int
) -> None:
    channels, aspect = 8, width_px / height_px
    table = sine_table(channels, (rows, columns), aspect, torch.float64, torch.device('cpu'))
    diagonal = math.hypot(aspect, 1)
    for row in range(rows):
        for column in range(columns):
            x = aspect / diagonal * (2 * column + 1 - columns) / columns
            y = 1 / diagonal * (2 * row + 1 - rows) / rows
            frequencies = [100 ** (-i / (channels // 4)) for i in range(channels // 4)]
            wanted = [
                wave(position * frequency)
                for position in (x, y)
                for wave in (math.sin, math.cos)
                for frequency in frequencies
            ]
            found = table[0, :, row, column].numpy() / 0.1
            assert np.abs(found - wanted).max() < 1e-7  # the table is rounded to float32


def test_learned_table_is_itself_on_its_own_grid_and_resizes_smoothly() -> None:
    table = torch.randn(1, 12, 4, requires_grad=True)
    assert resize_learned(table, (3, 4), (3, 4)) is table
    resized = resize_learned(table, (3, 4), (5, 2))
    assert resized.shape == (1, 10, 4)
    resized.sum().backward()
    assert table.grad is not None
    flat = resize_learned(torch.full((1, 12, 4), 3.0), (3, 4), (7, 9))
    assert torch.allclose(flat, torch.tensor(3.0), atol=1e-5)
