# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The renderer uses nothing whose last bit may differ from machine to machine."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

_MODULES = """
seeds materials scene furnishing poses sight controls candidates motion drive
arrays raycast textures render sensor sequences
"""
MODULES = _MODULES.split()
# Not rounded exactly, summed in an order of the machine's choosing, fused, or the machine's own.
_INEXACT = """
sin cos tan arctan arctan2 atan atan2 arcsin arccos asin acos tanh sigmoid softmax
exp expm1 log log1p log2 pow power float_power hypot norm rsqrt cbrt
dot vdot inner matmul mm bmm einsum tensordot linalg trace
mean average std var prod nansum cumsum cumprod interp interpolate grid_sample conv2d
lerp addcmul addcdiv baddbmm rand randn rand_like
"""
INEXACT = set(_INEXACT.split())
# Summed: whole numbers only, whose sum does not depend on the order.
WHOLE_SUMS = {'candidates': 2, 'sensor': 1}


def faults(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr.rstrip('_') in INEXACT:
            found.append(f'line {node.lineno}: {node.attr}')
        if isinstance(node, ast.Attribute) and node.attr.rstrip('_') == 'sqrt':
            found += [] if _module_of(node) in ('np', 'arrays') else [f'line {node.lineno}: sqrt']
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            found.append(f'line {node.lineno}: @')
        # Powers of constants such as 0.5**octave are exact; others go through pow().
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            found += [] if isinstance(node.left, ast.Constant) else [f'line {node.lineno}: **']
        if isinstance(node, ast.keyword) and node.arg == 'alpha':
            found.append(f'line {node.lineno}: alpha=')
    return found


def _module_of(node: ast.Attribute) -> str:
    return node.value.id if isinstance(node.value, ast.Name) else ''


@pytest.mark.parametrize('module', MODULES)
def test_only_exactly_rounded_operations(module: str, project_dir: Path) -> None:
    source = (project_dir / 'qvggt_ros' / 'synthetic' / f'{module}.py').read_text()
    # The one place that decides how tensors' square roots are taken.
    own_roots = 1 if module == 'arrays' else 0
    assert [fault.split(': ')[1] for fault in faults(source)] == ['sqrt'] * own_roots
    assert source.count('.sum(') == WHOLE_SUMS.get(module, 0)


def test_the_search_finds_what_it_should() -> None:
    for line in (
        'np.sin(x)',
        'x.mean()',
        'a @ b',
        'x ** 2',
        'x.exp_()',
        'add(a, b, alpha=2)',
        'x.sqrt_()',
    ):
        assert len(faults(line)) == 1, line
    assert not faults('0.5 ** octave\nnp.sqrt(x)\nx.add_(y)')
