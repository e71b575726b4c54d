# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Muon for processors without bfloat16 arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Float32Muon(torch.optim.Muon):
    """PyTorch's Muon with its Newton-Schulz iteration in float32.

    PyTorch iterates in bfloat16, which a processor without such instructions emulates: on one that
    has AVX2 only, more than half of a training step went there. State and options are the same.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; as in PyTorch's class, a closure is called first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group['params']:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        lr, decay, momentum = (group[name] for name in ('lr', 'weight_decay', 'momentum'))
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if 'momentum_buffer' not in state:
            state['momentum_buffer'] = torch.zeros_like(gradient)
        buffer = state['momentum_buffer']
        buffer.lerp_(gradient, 1 - momentum)
        update = gradient.lerp(buffer, momentum) if group['nesterov'] else buffer
        update = orthogonalised(update, group['ns_coefficients'], group['ns_steps'], group['eps'])
        assert group['adjust_lr_fn'] == 'match_rms_adamw'
        parameter.mul_(1 - lr * decay)
        parameter.add_(update, alpha=-lr * 0.2 * max(parameter.shape) ** 0.5)


def orthogonalised(
    matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """Bring the singular values of a matrix near 1 by the quintic Newton-Schulz iteration.

    Jordan et al. 2024, "Muon: an optimizer for hidden layers": X <- a X + (b A + c A^2) X with
    A = X X^T, begun with X of Frobenius norm 1.
    """
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
