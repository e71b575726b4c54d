# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Run a bundle's golden windows through an engine and refuse one that computes other numbers.

Runtimes have been seen to compute vision transformers wrongly without a word; a robot must find
that out before it drives.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.engine.golden_file import GoldenArrays, read_golden
from qvggt_ros.engine.interface import Engine, Float32Array
from qvggt_ros.engine.manifest import GOLDEN_OUTPUTS, MEAN_SUFFIX
from qvggt_ros.errors import EngineError

__all__ = ['GoldenArrays', 'golden_errors', 'read_golden', 'self_check', 'to_network_input']

# Where an output goes wrong. Outputs are compared in this order: if the pose is right, the graphs
# before the depth graph were right too, as far as the pose can tell.
ORIGINS = {
    'pose_enc': 'encoder or window graph',
    'depth': 'depth graph, or one before it',
    'depth_conf': 'depth graph, or one before it',
}


def to_network_input(images: NDArray[np.generic]) -> Float32Array:
    """Return 8-bit RGB frames [n, H, W, 3] as the encoder's input [n, 3, H, W] in [0, 1]."""
    scaled = np.asarray(images, np.float32) / np.float32(255)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def golden_errors(engine: Engine, golden: GoldenArrays) -> dict[str, float]:
    """Return the `GOLDEN_FIGURES` of an engine over all golden windows.

    Raises:
        EngineError: an output is not finite or of another shape, with its graph and window.

    """
    largest = dict.fromkeys(GOLDEN_OUTPUTS, 0.0)
    total = dict.fromkeys(GOLDEN_OUTPUTS, 0.0)
    for index, images in enumerate(golden['images']):
        window = engine.window(engine.encode(to_network_input(images)))
        depth, depth_conf = engine.depth(window, range(len(images)))
        found = {'pose_enc': window.pose_enc, 'depth': depth, 'depth_conf': depth_conf}
        for name, value in found.items():
            error = _differences(name, index, value, golden[name][index])
            largest[name] = max(largest[name], float(error.max()))
            total[name] += float(error.sum())
    errors = {}
    for name in GOLDEN_OUTPUTS:
        reference = np.abs(golden[name].astype(np.float64))
        # A bundle whose reference is all zero is compared absolutely.
        errors[name] = largest[name] / (float(reference.max()) or 1.0)
        errors[name + MEAN_SUFFIX] = total[name] / (float(reference.sum()) or reference.size)
    return errors


def _differences(
    name: str, window: int, found: Float32Array, reference: NDArray[np.generic]
) -> NDArray[np.float64]:
    """Return |difference| of each number of an output."""
    place = f'{ORIGINS[name]}: {name} of golden window {window}'
    if found.shape != reference.shape:
        raise EngineError(f'{place} is {list(found.shape)}, must be {list(reference.shape)}')
    if not np.isfinite(found).all():
        raise EngineError(f'{place} is not finite; this engine cannot be used here')
    difference: NDArray[np.float64] = np.abs(
        found.astype(np.float64) - reference.astype(np.float64)
    )
    return difference


def self_check(
    engine: Engine,
    folder: Path,
    engine_label: str,
    tolerances: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Run the golden windows; return the measured errors.

    Args:
        engine: to be checked.
        folder: the bundle.
        engine_label: the engine's name and version, for messages.
        tolerances: by golden figure; the manifest's if None.

    Raises:
        EngineError: one line that says which graph and output differs, by how much, and what to
            try.

    """
    manifest = engine.manifest
    golden = read_golden(folder, manifest)
    label = f'{folder}: self-check of {engine_label}'
    try:
        errors = golden_errors(engine, golden)
    except EngineError as error:
        raise EngineError(f'{label}: {error}') from error
    allowed = manifest.golden.tolerances if tolerances is None else tolerances
    for name in GOLDEN_OUTPUTS:
        _check_output(name, errors, allowed, label)
    return errors


def _check_output(
    name: str, errors: dict[str, float], tolerances: Mapping[str, float], label: str
) -> None:
    """Refuse an output one of whose figures is above its tolerance."""
    for figure, measure in (
        (name, 'its maximum'),
        (name + MEAN_SUFFIX, 'its mean, on average'),
    ):
        error, allowed = errors[figure], tolerances[figure]
        if not error <= allowed:
            raise EngineError(
                f'{label}: {ORIGINS[name]}: {name} differs from the reference by {error:.2g} of '
                f'{measure}, allowed is {allowed:.2g}; build the bundle again or use another '
                'version of the engine'
            )
