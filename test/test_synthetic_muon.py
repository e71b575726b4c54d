# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Muon in float32 takes PyTorch's steps."""

from __future__ import annotations

import pytest
import torch

from qvggt_ros.synthetic.muon import Float32Muon, orthogonalised

COEFFICIENTS = (3.4445, -4.775, 2.0315)


@pytest.mark.parametrize('shape', [(24, 40), (40, 24), (32, 32)])
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 17
    values = torch.linalg.svdvals(orthogonalised(matrix, COEFFICIENTS, 5, 1e-7))
    assert values.min() > 0.5 and values.max() < 1.3


@pytest.mark.parametrize('shape', [(24, 40), (40, 24)])
def test_steps_are_those_of_pytorch_to_its_precision(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(shape, generator=generator)
    gradients = [torch.randn(shape, generator=generator) for _ in range(4)]
    ends = []
    for kind in (torch.optim.Muon, Float32Muon):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = kind([parameter], lr=0.02, weight_decay=0.03, adjust_lr_fn='match_rms_adamw')
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
        ends.append(parameter.detach() - start)
        assert set(optimizer.state[parameter]) == {'momentum_buffer'}
    assert (ends[0] - ends[1]).norm() < 0.02 * ends[0].norm()


def test_a_parameter_without_gradient_stays() -> None:
    parameter = torch.nn.Parameter(torch.ones(4, 4))
    Float32Muon([parameter], lr=1.0, adjust_lr_fn='match_rms_adamw').step()
    assert torch.equal(parameter.detach(), torch.ones(4, 4))


def test_a_closure_is_called_first() -> None:
    parameter = torch.nn.Parameter(torch.eye(4))

    def closure() -> float:
        parameter.grad = torch.eye(4)
        return 2.5

    assert Float32Muon([parameter], lr=0.1, adjust_lr_fn='match_rms_adamw').step(closure) == 2.5
    assert not torch.equal(parameter.detach(), torch.eye(4))
