# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Every encoding gives the right colours; what cannot be right is refused by name."""

from __future__ import annotations

from array import array

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import CompressedImage, Image

from qvggt_ros.errors import ImageError
from qvggt_ros.node.image_conversion import (
    ENCODINGS,
    rgb_from_compressed,
    rgb_from_image,
    rgb_from_message,
)

COLOURS = {'red': (255, 0, 0), 'green': (0, 255, 0), 'blue': (0, 0, 255)}


def image(encoding: str, pixels: np.ndarray, padding: int = 0, big_endian: bool = False) -> Image:
    """Return a message of pixels [h, w(, c)], each row followed by padding bytes of 0xAA."""
    height, width = pixels.shape[:2]
    if pixels.dtype == np.uint16:
        pixels = pixels.astype('>u2' if big_endian else '<u2')
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xAA)
    return Image(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=big_endian,
        step=padded.shape[1],
        data=array('B', padded.tobytes()),
    )


def one_colour(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((4, 6, 3), colour, np.uint8)


@pytest.mark.parametrize('colour', COLOURS.values(), ids=COLOURS)
@pytest.mark.parametrize('padding', [0, 5])
def test_pure_colours_from_every_rgb_order(colour: tuple[int, int, int], padding: int) -> None:
    rgb = one_colour(colour)
    alpha = np.full((4, 6, 1), 7, np.uint8)
    messages = {
        'rgb8': rgb,
        'bgr8': rgb[..., ::-1],
        'rgba8': np.concatenate([rgb, alpha], axis=2),
        'bgra8': np.concatenate([rgb[..., ::-1], alpha], axis=2),
        'rgb16': rgb.astype(np.uint16) << 8,
        'bgr16': rgb[..., ::-1].astype(np.uint16) << 8,
    }
    for encoding, pixels in messages.items():
        result = rgb_from_image(image(encoding, pixels, padding))
        np.testing.assert_array_equal(result, rgb, err_msg=encoding)


@pytest.mark.parametrize('big_endian', [False, True])
def test_grey_of_8_and_16_bits(big_endian: bool) -> None:
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    wide = (grey.astype(np.uint16) << 8) + 0x7F
    for encoding, pixels in (('mono8', grey), ('mono16', wide)):
        result = rgb_from_image(image(encoding, pixels, 3, big_endian))
        np.testing.assert_array_equal(result, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize('colour', COLOURS.values(), ids=COLOURS)
@pytest.mark.parametrize('encoding', ['yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv'])
def test_yuv_is_the_colour_within_rounding(encoding: str, colour: tuple[int, int, int]) -> None:
    # BT.601, limited range
    r, g, b = colour
    y = round(16 + (65.5 * r + 128.6 * g + 24.97 * b) / 255)
    u = round(128 + (-37.8 * r - 74.2 * g + 112.0 * b) / 255)
    v = round(128 + (112.0 * r - 93.8 * g - 18.2 * b) / 255)
    order = (u, y, v, y) if encoding in ('yuv422', 'uyvy') else (y, u, y, v)
    pixels = np.tile(np.array(order, np.uint8).reshape(1, 2, 2), (4, 3, 1))
    result = rgb_from_image(image(encoding, pixels, padding=4))
    assert np.abs(result.astype(int) - one_colour(colour)).max() <= 4


@pytest.mark.parametrize('colour', COLOURS.values(), ids=COLOURS)
@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
@pytest.mark.parametrize('bits', [8, 16])
def test_bayer_is_the_colour(pattern: str, colour: tuple[int, int, int], bits: int) -> None:
    values = dict(zip('rgb', colour, strict=True))
    tile = np.array([values[letter] for letter in pattern], np.uint8).reshape(2, 2)
    mosaic: np.ndarray = np.tile(tile, (4, 4))
    if bits == 16:
        mosaic = mosaic.astype(np.uint16) << 8
    result = rgb_from_image(image(f'bayer_{pattern}{bits}', mosaic))
    inner = result[2:-2, 2:-2]
    np.testing.assert_array_equal(inner, np.broadcast_to(colour, inner.shape))


def test_rgb8_without_padding_is_not_copied() -> None:
    message = image('rgb8', one_colour((1, 2, 3)))
    assert np.shares_memory(rgb_from_image(message), np.frombuffer(message.data, np.uint8))


@pytest.mark.parametrize('format_', ['.png', '.jpg'])
@pytest.mark.parametrize('colour', COLOURS.values(), ids=COLOURS)
def test_compressed_images_have_their_colours(format_: str, colour: tuple[int, int, int]) -> None:
    _, data = cv2.imencode(format_, one_colour(colour)[..., ::-1])
    message = CompressedImage(format=format_, data=array('B', data.tobytes()))
    result = rgb_from_message(message)
    assert np.abs(result.astype(int) - one_colour(colour)).max() <= (2 if format_ == '.jpg' else 0)


@pytest.mark.parametrize('data', [b'', b'no image at all', b'\x89PNG\r\n\x1a\n broken'])
def test_what_cannot_be_decoded_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match=f'compressed image of {len(data)} bytes'):
        rgb_from_compressed(CompressedImage(format='png', data=array('B', data)))


def test_unknown_encoding_is_named_with_the_known_ones() -> None:
    message = image('rgb8', one_colour((1, 2, 3)))
    message.encoding = 'rgb32f'
    with pytest.raises(ImageError, match=r"encoding 'rgb32f' is not known.*rgb8, bgr8"):
        rgb_from_message(message)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'height': 5}, 'data of 72 bytes: 5 rows of 18 need 90'),
        ({'height': 0}, 'at least 1x1'),
        ({'width': 7}, 'step 18: a row of 7 rgb8 pixels has 21 bytes'),
        ({'step': 17}, 'step 17'),
        ({'step': 19}, '4 rows of 19 need 76'),
    ],
)
def test_numbers_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    broken = image('rgb8', one_colour((1, 2, 3)))
    for name, value in change.items():
        setattr(broken, name, value)
    with pytest.raises(ImageError, match=message):
        rgb_from_image(broken)


@given(
    st.sampled_from([*ENCODINGS, 'nonsense', '']),
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(0, 40),
    st.binary(max_size=120),
    st.booleans(),
)
def test_any_message_gives_an_image_or_an_image_error(
    encoding: str, width: int, height: int, step: int, data: bytes, big_endian: bool
) -> None:
    message = Image(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=big_endian,
        step=step,
        data=array('B', data),
    )
    try:
        result = rgb_from_image(message)
    except ImageError as error:
        assert '\n' not in str(error)
    else:
        assert result.shape == (height, width, 3) and result.dtype == np.uint8
