# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Round weights so that their errors cancel on the inputs that are really seen.

Rounding to nearest looks at each weight alone. Here the error of each input's weights is carried
over to the inputs that are still to be rounded, by the inverse of the inputs' second moments
(Frantar et al. 2023, GPTQ). Steps and ranges stay what they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qvggt_ros.quantization.quantizer import integer_range

# Share of the mean second moment that is added to all, so that the inverse exists.
DAMPING = 0.01
# Inputs that are rounded before their errors are applied to all later ones.
CHUNK = 64


def compensated_integers(weight: Tensor, steps: Tensor, moments: Tensor, bits: int) -> Tensor:
    """Return integers [out, inputs] whose steps' multiples act like `weight` on the inputs.

    Args:
        weight: [out, inputs] as quantised, i.e. smoothed.
        steps: [out, blocks], each for inputs / blocks neighbouring inputs.
        moments: [inputs, inputs] sum of x x^T over the inputs x.
        bits: of the weights.

    """
    low, high = integer_range(bits)
    spread = _inverse_factor(moments)
    left = weight.double().clone()
    integers = torch.zeros_like(left)
    per_input = steps.double().repeat_interleave(weight.shape[1] // steps.shape[1], dim=1)
    for start in range(0, weight.shape[1], CHUNK):
        end = min(start + CHUNK, weight.shape[1])
        errors = torch.zeros_like(left[:, start:end])
        for column in range(start, end):
            step = per_input[:, column]
            integers[:, column] = (left[:, column] / step).round().clamp(low, high)
            error = (left[:, column] - integers[:, column] * step) / spread[column, column]
            left[:, column:end] -= error[:, None] * spread[column, column:end]
            errors[:, column - start] = error
        left[:, end:] -= errors @ spread[start:end, end:]
    return integers


def _inverse_factor(moments: Tensor) -> Tensor:
    """Return the upper Cholesky factor of the inverse of the damped moments."""
    moments = moments.double()
    mean = moments.diagonal().mean().clamp(min=1e-12)
    damped = moments + DAMPING * mean * torch.eye(len(moments), dtype=moments.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)
