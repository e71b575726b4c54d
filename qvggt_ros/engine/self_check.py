# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Run a bundle's golden windows through an engine and refuse one that computes other numbers.

Runtimes have been seen to compute vision transformers wrongly without a word; a robot must find
that out before it drives.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.engine.interface import Engine, Float32Array
from qvggt_ros.engine.manifest import GOLDEN_OUTPUTS, Manifest, bundle_path
from qvggt_ros.errors import BundleError, EngineError

GoldenArrays = dict[str, NDArray[np.generic]]


def read_golden(folder: Path, manifest: Manifest) -> GoldenArrays:
    """Return the golden windows' `images` and outputs; BundleError if they do not fit."""
    path = bundle_path(folder, manifest.golden.file)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ('images', *GOLDEN_OUTPUTS)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f'{path}: no golden windows in it: {error}') from error
    size = (manifest.image_height, manifest.image_width)
    windows = arrays['images'].shape[:2]
    shapes = {
        'images': ('uint8', (*windows, *size, 3)),
        'pose_enc': ('float32', (*windows, 9)),
        'depth': ('float32', (*windows, *size)),
        'depth_conf': ('float32', (*windows, *size)),
    }
    for name, (dtype, shape) in shapes.items():
        array = arrays[name]
        if array.dtype != dtype or array.shape != shape or not array.size:
            raise BundleError(
                f'{path}: {name} is {array.dtype} {list(array.shape)}, not {dtype} {list(shape)}'
            )
        if not np.isfinite(array.astype(np.float32)).all():
            raise BundleError(f'{path}: {name} is not finite; build the bundle again')
    return arrays


def to_network_input(images: NDArray[np.generic]) -> Float32Array:
    """Return 8-bit RGB frames [n, H, W, 3] as the encoder's input [n, 3, H, W] in [0, 1]."""
    scaled = np.asarray(images, np.float32) / np.float32(255)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def golden_errors(engine: Engine, golden: GoldenArrays) -> dict[str, float]:
    """Return max |difference| / max |reference| of each output over all golden windows.

    Raises:
        EngineError: an output is not finite, with its name and window.

    """
    difference = dict.fromkeys(GOLDEN_OUTPUTS, 0.0)
    for index, images in enumerate(golden['images']):
        window = engine.window(engine.encode(to_network_input(images)))
        depth, depth_conf = engine.depth(window, range(len(images)))
        found = {'pose_enc': window.pose_enc, 'depth': depth, 'depth_conf': depth_conf}
        for name, value in found.items():
            if not np.isfinite(value).all():
                raise EngineError(
                    f'self-check: {name} of golden window {index} is not finite; this engine '
                    'cannot be used here'
                )
            error = np.abs(value - golden[name][index].astype(np.float32)).max()
            difference[name] = max(difference[name], float(error))
    # A bundle whose reference is all zero is compared absolutely.
    scale = {name: float(np.abs(golden[name]).max()) or 1.0 for name in GOLDEN_OUTPUTS}
    return {name: difference[name] / scale[name] for name in GOLDEN_OUTPUTS}


def self_check(engine: Engine, folder: Path, engine_label: str) -> dict[str, float]:
    """Run the golden windows; return the measured errors.

    Raises:
        EngineError: one line that says which output differs, by how much, and what to try.

    """
    manifest = engine.manifest
    errors = golden_errors(engine, read_golden(folder, manifest))
    for name, error in errors.items():
        allowed = manifest.golden.tolerances[name]
        if not error <= allowed:
            raise EngineError(
                f'{folder}: self-check of {engine_label}: {name} differs from the reference by '
                f'{error:.2g} of its maximum, allowed is {allowed:.2g}; build the bundle again or '
                'use another version of the engine'
            )
    return errors
