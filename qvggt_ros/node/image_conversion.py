# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Image messages to RGB arrays.

Any object with the fields of `sensor_msgs/Image` or `CompressedImage` will do, so that a bag read
without ROS goes through the same code. Nothing is guessed: an encoding that is not in the table is
refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from qvggt_ros.errors import ImageError

UInt8Array = NDArray[np.uint8]


@dataclass(frozen=True)
class _Encoding:
    """How one encoding lies in memory and becomes RGB.

    Attributes:
        dtype: of one channel, without byte order.
        channels: per pixel.
        to_rgb: [h, w] or [h, w, channels] of that type to [h, w, 3] uint8.

    """

    dtype: type[np.uint8] | type[np.uint16]
    channels: int
    to_rgb: Callable[[NDArray[Any]], UInt8Array]


def _by_opencv(code: int) -> Callable[[NDArray[Any]], UInt8Array]:
    def convert(pixels: NDArray[Any]) -> UInt8Array:
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), code), dtype=np.uint8)

    return convert


def _high_byte(
    to_rgb: Callable[[NDArray[Any]], UInt8Array],
) -> Callable[[NDArray[Any]], UInt8Array]:
    """Return the converter of the same layout with 16 bits per channel: its high bytes."""
    return lambda pixels: to_rgb((pixels >> 8).astype(np.uint8))


def _same(pixels: NDArray[Any]) -> UInt8Array:
    return pixels


def _reversed(pixels: NDArray[Any]) -> UInt8Array:
    return np.ascontiguousarray(pixels[..., ::-1])


def _grey(pixels: NDArray[Any]) -> UInt8Array:
    return np.repeat(pixels[..., None], 3, axis=2)


_UYVY = _Encoding(np.uint8, 2, _by_opencv(cv2.COLOR_YUV2RGB_UYVY))
_YUYV = _Encoding(np.uint8, 2, _by_opencv(cv2.COLOR_YUV2RGB_YUY2))

# OpenCV names a Bayer pattern by the second row's second and third pixel, ROS by the first row's
# first two: RGGB is OpenCV's BG.
_BAYER = {
    'rggb': cv2.COLOR_BayerBG2RGB,
    'bggr': cv2.COLOR_BayerRG2RGB,
    'gbrg': cv2.COLOR_BayerGR2RGB,
    'grbg': cv2.COLOR_BayerGB2RGB,
}

ENCODINGS: dict[str, _Encoding] = {
    'rgb8': _Encoding(np.uint8, 3, _same),
    'bgr8': _Encoding(np.uint8, 3, _reversed),
    'rgba8': _Encoding(np.uint8, 4, lambda p: np.ascontiguousarray(p[..., :3])),
    'bgra8': _Encoding(np.uint8, 4, lambda p: np.ascontiguousarray(p[..., 2::-1])),
    'mono8': _Encoding(np.uint8, 1, _grey),
    'mono16': _Encoding(np.uint16, 1, _high_byte(_grey)),
    'rgb16': _Encoding(np.uint16, 3, _high_byte(_same)),
    'bgr16': _Encoding(np.uint16, 3, _high_byte(_reversed)),
    # REP-2003-era names first, then the ones that replaced them.
    'yuv422': _UYVY,
    'uyvy': _UYVY,
    'yuv422_yuy2': _YUYV,
    'yuyv': _YUYV,
    **{f'bayer_{p}8': _Encoding(np.uint8, 1, _by_opencv(c)) for p, c in _BAYER.items()},
    **{
        f'bayer_{p}16': _Encoding(np.uint16, 1, _high_byte(_by_opencv(c)))
        for p, c in _BAYER.items()
    },
}


def rgb_from_image(message: Any) -> UInt8Array:
    """Return a `sensor_msgs/Image` as [h, w, 3] uint8 RGB.

    Without padding, rgb8 is a view of the message's data, not a copy.

    Raises:
        ImageError: unknown encoding, a step too short, or data of another length than they say.

    """
    encoding = ENCODINGS.get(message.encoding)
    if encoding is None:
        raise ImageError(
            f'image encoding {message.encoding!r} is not known; known are {", ".join(ENCODINGS)}'
        )
    width, height, step = message.width, message.height, message.step
    row_bytes = width * encoding.channels * np.dtype(encoding.dtype).itemsize
    data = np.frombuffer(message.data, dtype=np.uint8)
    if width < 1 or height < 1:
        raise ImageError(f'image of {width}x{height}: must be at least 1x1')
    if step < row_bytes:
        raise ImageError(
            f'image step {step}: a row of {width} {message.encoding} pixels has {row_bytes} bytes'
        )
    if len(data) != step * height:
        raise ImageError(
            f'image data of {len(data)} bytes: {height} rows of {step} need {step * height}'
        )
    rows = data.reshape(height, step)[:, :row_bytes]
    if encoding.dtype is np.uint16:
        order = '>u2' if message.is_bigendian else '<u2'
        rows = np.ascontiguousarray(rows).view(order)
    shape = (height, width) if encoding.channels == 1 else (height, width, encoding.channels)
    try:
        return encoding.to_rgb(rows.reshape(shape))
    except cv2.error as error:
        raise ImageError(
            f'{message.encoding} image of {width}x{height} cannot be converted: {error.err}'
        ) from error


def rgb_from_compressed(message: Any) -> UInt8Array:
    """Return a `sensor_msgs/CompressedImage` (JPEG, PNG) as [h, w, 3] uint8 RGB.

    Raises:
        ImageError: the data are not an image that OpenCV can decode.

    """
    data = np.frombuffer(message.data, dtype=np.uint8)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    bgr = cv2.imdecode(data, flags) if len(data) else None
    if bgr is None:
        raise ImageError(
            f'compressed image of {len(data)} bytes, format {message.format!r}, cannot be decoded'
        )
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def rgb_from_message(message: Any) -> UInt8Array:
    """Return an `Image` or a `CompressedImage` as [h, w, 3] uint8 RGB."""
    if hasattr(message, 'encoding'):
        return rgb_from_image(message)
    return rgb_from_compressed(message)
