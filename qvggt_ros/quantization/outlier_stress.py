# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Outliers put into a network on purpose, without changing what it computes in float.

Large transformers have a few channels, and a few tokens, whose activations are hundreds of times
the others (Dettmers et al. 2022, "LLM.int8()"; Sun et al. 2024, "Massive Activations"; Darcet et
al. 2024 for vision). A small network trained from scratch has none, so that any quantiser looks
good on it. Here they are written into the weights of a small network: a quantiser that copes
with them can be told from one that does not, and the float network's outputs are the yardstick.
"""

from __future__ import annotations

import copy
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg
from torch import Tensor, nn

from qvggt_ros.errors import UsageError
from qvggt_ros.quantization.seams import (
    Seam,
    aggregator_seams,
    between,
    model_seams,
    value_seam,
)
from qvggt_ros.vggt import VGGT
from qvggt_ros.vggt.layers import Block, Mlp

Float64Array = NDArray[np.float64]
# A linear layer's inputs on special tokens and on patches: [n, channels] each.
TokenInputs = tuple[Float64Array, Float64Array]

LINEARS = ('attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2')
# Added to the diagonal of a matrix before it is inverted, as a share of its mean.
SCATTER_RIDGE = 1e-3
GRAM_RIDGE = 1e-6


@torch.no_grad()
def with_channel_outliers(
    model: VGGT,
    seed: int,
    channels_share: float = 0.03,
    largest: float = 1000.0,
    heads: bool = True,
) -> VGGT:
    """Return a copy in which a few channels of every layer's input are far larger than the rest.

    The places are those of `seams.model_seams`: between LayerNorm and qkv or fc1, between V and
    the output projection (encoder, aggregator, camera head), and some in the heads. Factors are
    log-uniform between 1 and `largest`, one channel of each place having exactly `largest`. The
    weights that read a channel are smaller by its factor: weights quantised per output channel
    lose them as surely as activations quantised per tensor or token lose the other channels.

    Args:
        model: any network; it is left as it is.
        seed: of channels and factors.
        channels_share: of each place's channels, at least one.
        largest: factor, at least 1.
        heads: in the camera and dense heads too, not only in the blocks of encoder and aggregator.

    Raises:
        UsageError: the share is not in (0, 1], or `largest` below 1.

    """
    if not 0 < channels_share <= 1:
        raise UsageError(f'channels_share {channels_share}: must be above 0 and at most 1')
    _check_largest(largest)
    changed = copy.deepcopy(model)
    random = np.random.default_rng(seed)
    for seam in model_seams(changed) if heads else aggregator_seams(changed):
        channels = len(seam.produced[0])
        factors = np.ones(channels)
        count = max(1, round(channels_share * channels))
        chosen = random.choice(channels, count, replace=False)
        factors[chosen] = largest ** random.uniform(0, 1, count)
        factors[chosen[0]] = largest
        seam.scale(torch.from_numpy(factors))
    return changed


@torch.no_grad()
def with_token_outliers(
    model: VGGT, seed: int, windows: NDArray[np.uint8], largest: float = 1000.0
) -> VGGT:
    """Return a copy whose camera and register tokens have massive activations, and patches none.

    In every frame and global block:

    - two of fc2's inputs are `largest` times the patches' root mean square on special tokens and
      0 on patches; their columns in fc2 are opposite, so that nothing comes of it. The two hidden
      units that can be spared best make room (`free_units`); this alone is not exact: in the demo
      model it is of the order of 1e-4 of a block's output, in one without spare units more.
    - of the inputs of qkv and fc1 the channel, and of proj's the direction within a head, in
      which special tokens stand out most is magnified: until it is as large as the other channels
      on patches, at most `largest` times as large on special tokens. This is exact.

    Args:
        model: a small network (its activations are held in memory); it is left as it is.
        seed: of the columns in fc2.
        windows: uint8 [n, s, H, W, 3] RGB, several times as many tokens as hidden units.
        largest: see above; at least 1.

    Raises:
        UsageError: `largest` is below 1, the windows are of another kind, or a block's special
            tokens look like patches.

    """
    _check_largest(largest)
    changed = copy.deepcopy(model)
    random = np.random.default_rng(seed)
    for name, inputs in _record_inputs(changed, windows).items():
        block = cast(Block, changed.get_submodule(name))
        try:
            detector = _detector(*inputs['mlp.fc1'])
        except UsageError as error:
            raise UsageError(f'{name}: {error}') from error
        _add_massive_pair(block.mlp, inputs['mlp.fc2'], detector, largest, random)
        _magnify_norm(block.norm1, block.attn.qkv, inputs['attn.qkv'], largest)
        _magnify_norm(block.norm2, block.mlp.fc1, inputs['mlp.fc1'], largest)
        _magnify_value(block, inputs['attn.proj'], largest)
    return changed


def _check_largest(largest: float) -> None:
    if not 1 <= largest < float('inf'):
        raise UsageError(f'largest {largest}: must be finite and at least 1')


def _record_inputs(model: VGGT, windows: NDArray[np.uint8]) -> dict[str, dict[str, TokenInputs]]:
    """Return the inputs of every aggregator block's linear layers, by block and layer."""
    if windows.dtype != np.uint8 or windows.ndim != 5 or not len(windows):
        raise UsageError(
            f'windows: {windows.dtype} {list(windows.shape)}, must be uint8 [n, s, H, W, 3] with '
            'n >= 1'
        )
    kept: dict[str, dict[str, TokenInputs]] = {}
    images = torch.from_numpy(windows).movedim(-1, 2).to(model.aggregator.camera_token) / 255
    grid = model.config.grid(*images.shape[-2:])
    special = model.config.special_tokens

    def keep(block: str, layer: str, x: Tensor) -> None:
        channels = x.shape[-1]
        tokens = x.detach().double().cpu().numpy()
        frames = tokens.reshape(-1, special + grid[0] * grid[1], channels)
        kept.setdefault(block, {})[layer] = (
            frames[:, :special].reshape(-1, channels),
            frames[:, special:].reshape(-1, channels),
        )

    hooks = [
        module.get_submodule(layer).register_forward_pre_hook(
            lambda _, args, name=name, layer=layer: keep(name, layer, args[0])
        )
        for name, module in model.aggregator.named_modules(prefix='aggregator')
        if '_blocks.' in name and isinstance(module, Block)
        for layer in LINEARS
    ]
    tokens = model.encode(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    model.aggregator(tokens, grid)
    for hook in hooks:
        hook.remove()
    return kept


def _detector(special: Float64Array, patches: Float64Array) -> tuple[Float64Array, float]:
    """Return a row and a bias that give 1 at the median special token, below 0 at every patch.

    Fisher's linear discriminant.
    """
    scatter = _ridged(np.cov(special.T) + np.cov(patches.T), SCATTER_RIDGE)
    row = linalg.solve(scatter, special.mean(axis=0) - patches.mean(axis=0), assume_a='pos')
    fires, silent = float(np.median(special @ row)), float((patches @ row).max())
    if silent >= fires:
        raise UsageError('its special tokens look like patches; take a trained network')
    threshold = (fires + silent) / 2
    return row / (fires - threshold), -threshold / (fires - threshold)


def _add_massive_pair(
    mlp: Mlp,
    inputs: TokenInputs,
    detector: tuple[Float64Array, float],
    largest: float,
    random: np.random.Generator,
) -> None:
    """Let two hidden units fire on special tokens and cancel each other."""
    units = free_units(mlp.fc2, *inputs)
    height = largest * float(np.sqrt(np.mean(inputs[1] ** 2)))
    row, bias = detector
    column = random.normal(scale=float(mlp.fc2.weight.std()), size=mlp.fc2.out_features)
    for unit, sign in zip(units, (1, -1), strict=True):
        mlp.fc1.weight[unit] = torch.from_numpy(height * row).to(mlp.fc1.weight)
        mlp.fc1.bias[unit] = height * bias
        mlp.fc2.weight[:, unit] = torch.from_numpy(sign * column).to(mlp.fc2.weight)


def free_units(fc2: nn.Linear, special: Float64Array, patches: Float64Array) -> list[int]:
    """Do without the two inputs of a layer that matter least, and return which they are.

    The other inputs and the bias take over what they can, by least squares in which both kinds of
    tokens weigh the same (Hassibi and Stork 1993, "Optimal Brain Surgeon"). The two columns are
    left for the caller to fill.

    Args:
        fc2: the layer; changed in place.
        special: [n, channels], its inputs on special tokens.
        patches: [m, channels], its inputs on patches.

    """
    gram = _ridged(_gram(_with_ones(special)) + _gram(_with_ones(patches)), GRAM_RIDGE)
    weight = fc2.weight.double().cpu().numpy()
    cost = np.sum(weight**2, axis=0) / np.diag(linalg.inv(gram))[:-1]
    units = np.argsort(cost, kind='stable')[:2]
    rest = np.setdiff1d(np.arange(len(gram)), units)
    share = linalg.solve(gram[np.ix_(rest, rest)], gram[np.ix_(rest, units)], assume_a='pos')
    taken_over = torch.from_numpy(weight[:, units] @ share.T).to(fc2.weight)
    fc2.weight[:, rest[:-1]] += taken_over[:, :-1]
    fc2.bias.add_(taken_over[:, -1])
    return [int(unit) for unit in units]


def _magnify_norm(
    norm: nn.LayerNorm, reader: nn.Linear, inputs: TokenInputs, largest: float
) -> None:
    """Magnify the channel of a norm's output in which special tokens stand out most."""
    special, patches = inputs
    apart = np.mean((special - patches.mean(axis=0)) ** 2, axis=0)
    channel = int(np.argmax(apart / np.maximum(patches.var(axis=0), 1e-12)))
    values = special[:, channel], patches[:, channel]
    usual = float(patches.std(axis=0).mean())
    seam = between(norm, reader)
    seam.magnify(channel, *_magnification(values, usual, largest), reader.bias)


def _magnify_value(block: Block, inputs: TokenInputs, largest: float) -> None:
    """Make the direction of V in which special tokens stand out most a channel, and magnify it.

    Any invertible map of one head's values passes through attention. The direction has the
    largest ratio of mean squares, a generalised eigenvalue.
    """
    special, patches = inputs
    width = block.attn.proj.in_features // block.attn.heads
    heads = [slice(first, first + width) for first in range(0, special.shape[1], width)]
    found = [_standing_out(special[:, head], patches[:, head]) for head in heads]
    best = int(np.argmax([ratio for ratio, _ in found]))
    head, direction = heads[best], found[best][1]
    seam = value_seam(block, head)
    channel = int(np.abs(direction).argmax())
    _replace_channel(seam, channel, direction)
    values = special[:, head] @ direction, patches[:, head] @ direction
    usual = float(patches.std(axis=0).mean())
    seam.magnify(channel, *_magnification(values, usual, largest), block.attn.proj.bias)


def _standing_out(special: Float64Array, patches: Float64Array) -> tuple[float, Float64Array]:
    """Return the largest ratio of mean squares about the patches' mean, and its direction."""
    apart = special - patches.mean(axis=0)
    spread = _ridged(np.cov(patches.T), SCATTER_RIDGE)
    ratios, directions = linalg.eigh(_gram(apart), spread)
    direction = directions[:, -1]
    return float(ratios[-1]), direction / np.linalg.norm(direction)


def _replace_channel(seam: Seam, channel: int, direction: Float64Array) -> None:
    """Let a channel carry the sum of all channels times `direction` [C] instead of itself."""
    mixing = torch.eye(len(direction), dtype=torch.float64, device=seam.consumed[0].device)
    mixing[channel] = torch.from_numpy(direction)
    for tensor in seam.produced:
        tensor.copy_((mixing @ tensor.double()).to(tensor))
    for tensor in seam.consumed:
        tensor.copy_((tensor.double() @ mixing.inverse()).to(tensor))


def _magnification(values: TokenInputs, usual: float, largest: float) -> tuple[float, float]:
    """Return middle and factor that make patches `usual`, special tokens at most `largest` so."""
    special, patches = values
    middle = float(patches.mean())
    spread, apart = float(patches.std()), float(np.sqrt(np.mean((special - middle) ** 2)))
    if min(usual, spread, apart) < 1e-9:
        return middle, 1.0  # nothing that stands out of something
    return middle, min(usual / spread, largest * usual / apart)


def _gram(rows: Float64Array) -> Float64Array:
    return rows.T @ rows / len(rows)


def _with_ones(rows: Float64Array) -> Float64Array:
    return np.concatenate([rows, np.ones((len(rows), 1))], axis=1)


def _ridged(matrix: Float64Array, share: float) -> Float64Array:
    """Raise the diagonal by a share of its mean; at least so much that nothing is singular."""
    raised = matrix.copy()
    np.fill_diagonal(raised, np.diag(matrix) + share * np.trace(matrix) / len(matrix) + 1e-12)
    return raised
