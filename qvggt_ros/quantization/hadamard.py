# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Orthogonal matrices that spread outliers over all channels.

Row-vector convention throughout: a token x [d] becomes x R. All matrices are float64; what is
folded into weights is rounded once, at the end.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
import scipy.linalg
import torch
from torch import Tensor


def hadamard(size: int) -> Tensor:
    """Return an orthogonal matrix [size, size] whose entries all have about the same magnitude.

    For a power of two it is Sylvester's Hadamard matrix over sqrt(size) (QuantVGGT, equation 5);
    otherwise its Kronecker product with a cosine transform of the odd factor.
    """
    power = size & -size
    matrix = scipy.linalg.hadamard(power).astype(np.float64) / np.sqrt(power)
    if power != size:
        odd = scipy.fft.dct(np.eye(size // power), axis=0, norm='ortho')
        matrix = np.kron(odd, matrix)
    return torch.from_numpy(matrix)


def random_hadamard(size: int, seed: int) -> Tensor:
    """Return diag(+-1) H with signs drawn from the seed (QuantVGGT, equation 6)."""
    signs = np.where(np.random.default_rng(seed).random(size) < 0.5, -1.0, 1.0)
    return torch.from_numpy(signs)[:, None] * hadamard(size)


def mean_keeping_rotation(size: int, seed: int) -> Tensor:
    """Return a random Hadamard rotation R that keeps every token's mean: 1 R = 1.

    LayerNorm without its affine part then commutes with it, LN(x R) = LN(x) R: subtracting the
    mean and dividing by the deviation are the same in both bases. A whole residual stream can so
    be rotated for good without one more operation. A Householder reflection takes the image of
    the ones-vector back to itself; it changes the entries by about 1/sqrt(size) of their size.
    """
    rotation = random_hadamard(size, seed)
    ones = torch.full((size,), size**-0.5, dtype=torch.float64)
    difference = ones @ rotation - ones
    length = difference.square().sum()
    if length < 1e-24:
        return rotation
    return rotation - 2 / length * (rotation @ difference)[:, None] * difference[None]


def block_diagonal(matrix: Tensor, count: int) -> Tensor:
    """Return `count` copies of a square matrix along the diagonal."""
    return torch.block_diag(*[matrix] * count)


def kronecker_factors(size: int) -> tuple[int, int]:
    """Return (a, b), a * b = size, with which x H is two small products of sides a and b.

    H of a power of two is the Kronecker product of H_a and H_b; a and b are as equal as possible.
    """
    power = (size & -size).bit_length() - 1
    b = 1 << ((power + 1) // 2)
    return size // b, b


def rotate_online(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return x (left (x) right) for tokens x [..., a * b], as two products of sides a and b."""
    shaped = x.unflatten(-1, (left.shape[0], right.shape[0]))
    return (left.T @ (shaped @ right)).flatten(-2)
