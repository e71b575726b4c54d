# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Read a bundle's golden windows, and nothing larger or other than the manifest announces."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.engine.manifest import GOLDEN_OUTPUTS, Manifest, bundle_path
from qvggt_ros.errors import BundleError, first_line

GoldenArrays = dict[str, NDArray[np.generic]]

# A few bytes of zip file can stand for any number of zeros.
MAX_GOLDEN_BYTES = 1 << 30


def read_golden(folder: Path, manifest: Manifest) -> GoldenArrays:
    """Return the golden windows' `images` and outputs; BundleError if they do not fit."""
    path = bundle_path(folder, manifest.golden.file)
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = _read_arrays(path, archive, manifest)
    except BundleError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds
        raise BundleError(f'{path}: no golden windows in it: {first_line(error)}') from error
    for name in GOLDEN_OUTPUTS:
        if not np.isfinite(arrays[name]).all():
            raise BundleError(f'{path}: {name} is not finite; build the bundle again')
    return arrays


def _read_arrays(path: Path, archive: zipfile.ZipFile, manifest: Manifest) -> GoldenArrays:
    """Read all arrays; every size is checked before anything of that size is allocated."""
    size = (manifest.image_height, manifest.image_width)
    windows = (_announced_windows(archive), manifest.window_frames)
    shapes = {
        'images': ('uint8', (*windows, *size, 3)),
        'pose_enc': ('float32', (*windows, 9)),
        'depth': ('float32', (*windows, *size)),
        'depth_conf': ('float32', (*windows, *size)),
    }
    total = sum(math.prod(shape) * np.dtype(dtype).itemsize for dtype, shape in shapes.values())
    if total > MAX_GOLDEN_BYTES:
        raise BundleError(f'{path}: golden windows of {total} bytes, more than any bundle needs')
    return {
        name: _read_array(path, archive, name, dtype, shape)
        for name, (dtype, shape) in shapes.items()
    }


def _announced_windows(archive: zipfile.ZipFile) -> int:
    with archive.open('images.npy') as member:
        shape, _, _ = _read_header(member)
    return int(shape[0]) if shape else 0


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Return shape, order and type of an array; numpy writes plain ones in version 1.0."""
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError('an array of another version than 1.0')
    return np.lib.format.read_array_header_1_0(member)


def _read_array(
    path: Path, archive: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int, ...]
) -> NDArray[np.generic]:
    info = archive.getinfo(f'{name}.npy')
    with archive.open(info) as member:
        found_shape, fortran_order, found_dtype = _read_header(member)
        if found_dtype != dtype or found_shape != shape or not math.prod(shape):
            raise BundleError(
                f'{path}: {name} is {str(found_dtype)!r:.80} {list(found_shape)!r:.80}, not '
                f'{dtype} {list(shape)}'
            )
        if info.file_size != member.tell() + math.prod(shape) * found_dtype.itemsize:
            raise BundleError(f'{path}: {name} has {info.file_size} bytes, not those of its shape')
        content = np.frombuffer(member.read(), found_dtype)
    return content.reshape(shape, order='F' if fortran_order else 'C')
