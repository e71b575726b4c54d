# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Camera image to network input, as in the network's training, and the way back for pixels.

The network saw images resized by Pillow's antialiased bicubic filter, the shorter side rounded to
whole patches; OpenCV's filters differ visibly, so Pillow does it here too. Input must be a pinhole
image without distortion: nothing here undistorts.

Pixel coordinates are OpenCV's and ROS's: the centre of the upper left pixel is (0, 0), so a resize
by f takes u to (u + 0.5) f - 0.5. (The network's own intrinsics put the principal point at W/2 and
unproject integer pixels, see `decode`.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from qvggt_ros.errors import ImageError
from qvggt_ros.reconstruction.geometry import Float64Array

PreprocessMode = Literal['crop', 'pad']
PREPROCESS_MODES: tuple[PreprocessMode, ...] = ('crop', 'pad')
TRAINING_SIZE = 518
PATCH_SIZE = 14
WHITE = 255
BICUBIC = getattr(Image, 'Resampling', Image).BICUBIC  # Ubuntu 22.04's Pillow 9.0 has no enum

UInt8Array = NDArray[np.uint8]
Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class PreprocessPlan:
    """How images of one size become the engine's: resize, then cut or fill around the centre.

    Attributes:
        image_width: of the camera's image, pixels; image_height likewise.
        resized_width: after the resize; resized_height likewise.
        engine_width: of the engine's image; engine_height likewise.
        offset_x: resized pixel that becomes column 0 of the engine's image: positive where columns
            are cut, negative where they are filled with white; offset_y likewise for rows.

    """

    image_width: int
    image_height: int
    resized_width: int
    resized_height: int
    engine_width: int
    engine_height: int
    offset_x: int
    offset_y: int

    def engine_from_image_matrix(self) -> Float64Array:
        """Return the [3, 3] map of homogeneous pixels from the camera's to the engine's image."""
        fx = self.resized_width / self.image_width
        fy = self.resized_height / self.image_height
        return np.array(
            [
                [fx, 0.0, 0.5 * fx - 0.5 - self.offset_x],
                [0.0, fy, 0.5 * fy - 0.5 - self.offset_y],
                [0.0, 0.0, 1.0],
            ]
        )

    def image_from_engine_matrix(self) -> Float64Array:
        """Return the [3, 3] map of homogeneous pixels from the engine's to the camera's image."""
        return np.asarray(np.linalg.inv(self.engine_from_image_matrix()), dtype=np.float64)

    def engine_from_image_intrinsics(self, intrinsics: ArrayLike) -> Float64Array:
        """Return a camera matrix [..., 3, 3] of the camera's image as one of the engine's."""
        return self.engine_from_image_matrix() @ np.asarray(intrinsics, dtype=np.float64)

    def image_from_engine_intrinsics(self, intrinsics: ArrayLike) -> Float64Array:
        """Return a camera matrix [..., 3, 3] of the engine's image as one of the camera's."""
        return self.image_from_engine_matrix() @ np.asarray(intrinsics, dtype=np.float64)

    def image_from_engine_pixels(self, pixels: ArrayLike) -> Float64Array:
        """Return pixels [..., 2] (u, v) of the engine's image as pixels of the camera's."""
        image_from_engine = self.image_from_engine_matrix()
        uv = np.asarray(pixels, dtype=np.float64)
        return uv @ image_from_engine[:2, :2].T + image_from_engine[:2, 2]

    def valid_region(self) -> tuple[slice, slice]:
        """Return the rows and columns of the engine's image that show the camera's (no fill)."""
        rows = slice(max(0, -self.offset_y), min(self.engine_height, self._bottom()))
        columns = slice(max(0, -self.offset_x), min(self.engine_width, self._right()))
        return rows, columns

    def _bottom(self) -> int:
        return self.resized_height - self.offset_y

    def _right(self) -> int:
        return self.resized_width - self.offset_x


def plan_preprocess(
    image_width: int,
    image_height: int,
    engine_width: int,
    engine_height: int,
    mode: PreprocessMode = 'crop',
    patch_size: int = PATCH_SIZE,
) -> PreprocessPlan:
    """Plan the way from a camera's image size to an engine's.

    `crop` resizes until the image covers the engine's and cuts the rest evenly, `pad` until it
    fits and fills with white. The side that is free is rounded to whole patches, as in training;
    where that rounding hits the engine's size, nothing is cut and the result is training's own.

    Raises:
        ImageError: a size is not positive, the engine's is not whole patches, or unknown mode.

    """
    if min(image_width, image_height) < 1:
        raise ImageError(f'image size {image_width}x{image_height}: must be at least 1x1')
    if (
        engine_width % patch_size
        or engine_height % patch_size
        or min(engine_width, engine_height) < 1
    ):
        raise ImageError(
            f'engine size {engine_width}x{engine_height}: must be whole patches of {patch_size}'
        )
    if mode not in PREPROCESS_MODES:
        raise ImageError(f'preprocessing mode {mode!r}: must be one of {PREPROCESS_MODES}')
    free_height = _whole_patches(image_height * (engine_width / image_width), patch_size)
    free_width = _whole_patches(image_width * (engine_height / image_height), patch_size)
    width_leads = free_height >= engine_height if mode == 'crop' else free_height <= engine_height
    resized_width = engine_width if width_leads else free_width
    resized_height = free_height if width_leads else engine_height
    return PreprocessPlan(
        image_width,
        image_height,
        resized_width,
        resized_height,
        engine_width,
        engine_height,
        offset_x=_centred_offset(resized_width, engine_width),
        offset_y=_centred_offset(resized_height, engine_height),
    )


def plan_training_preprocess(
    image_width: int,
    image_height: int,
    mode: PreprocessMode = 'crop',
    target_size: int = TRAINING_SIZE,
    patch_size: int = PATCH_SIZE,
) -> PreprocessPlan:
    """Plan what the network's own loader does: `crop` has a free height, `pad` gives a square."""
    engine_height = target_size
    if mode == 'crop':
        free_height = _whole_patches(image_height * (target_size / image_width), patch_size)
        engine_height = min(free_height, target_size)
    return plan_preprocess(image_width, image_height, target_size, engine_height, mode, patch_size)


def resize_for_engine(image: UInt8Array, plan: PreprocessPlan) -> UInt8Array:
    """Return the engine's image [engine_height, engine_width, 3] uint8 of an RGB image.

    Raises:
        ImageError: the image is not uint8 RGB of the plan's size.

    """
    expected = (plan.image_height, plan.image_width, 3)
    if image.shape != expected or image.dtype != np.uint8:
        raise ImageError(f'image {image.shape} {image.dtype}: must be {expected} uint8 RGB')
    size = (plan.resized_width, plan.resized_height)
    resized = np.asarray(Image.fromarray(image).resize(size, BICUBIC))
    if size == (plan.engine_width, plan.engine_height):
        return resized
    result = np.full((plan.engine_height, plan.engine_width, 3), WHITE, dtype=np.uint8)
    rows, columns = plan.valid_region()
    result[rows, columns] = resized[
        rows.start + plan.offset_y : rows.stop + plan.offset_y,
        columns.start + plan.offset_x : columns.stop + plan.offset_x,
    ]
    return result


def network_input(engine_image: UInt8Array) -> Float32Array:
    """Return [3, H, W] float32 in [0, 1] of an engine image [H, W, 3] uint8."""
    planes = np.ascontiguousarray(engine_image.transpose(2, 0, 1)).astype(np.float32)
    planes /= np.float32(255)
    return planes


def preprocess(image: UInt8Array, plan: PreprocessPlan) -> Float32Array:
    """Return the network's input [3, H, W] float32 in [0, 1] of an RGB image [h, w, 3] uint8."""
    return network_input(resize_for_engine(image, plan))


def _whole_patches(length: float, patch_size: int) -> int:
    """Round to the nearest multiple of the patch size, at least one patch."""
    return max(1, round(length / patch_size)) * patch_size


def _centred_offset(resized: int, engine: int) -> int:
    """Return the first resized pixel that is kept (cut), or minus the pixels filled before it."""
    return (resized - engine) // 2 if resized >= engine else -((engine - resized) // 2)
