# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One language for arrays, with PyTorch and without.

The renderer is written once, in a small part of PyTorch's language: operators, methods such as
`a.add_(b)`, and the functions below. Tensors know the methods; HostArray teaches them to NumPy's
arrays. All of them round exactly, so both kinds of arrays hold the same bits.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    # To the type checker HostArray is a tensor: it offers what the renderer uses of one.
    Array: TypeAlias = torch.Tensor
else:
    Array = Any

# A device of PyTorch's, or NUMPY.
Device: TypeAlias = 'str | torch.device'
NUMPY = 'numpy'
# Named here, because a HostArray's own `float` and `int` hide the types of that name.
Number: TypeAlias = float
Word: TypeAlias = int
Shape: TypeAlias = tuple[int, ...]

Function = TypeVar('Function', bound=Callable[..., Any])


class HostArray(npt.NDArray[Any] if TYPE_CHECKING else np.ndarray):  # type: ignore[misc]
    """A NumPy array that understands the tensor methods which the renderer uses.

    Methods that end in an underscore change the array and return it, as a tensor's do.
    """

    device = NUMPY

    def add_(self, other: Any) -> HostArray:
        """Add in place."""
        return np.add(self, other, out=self)

    def sub_(self, other: Any) -> HostArray:
        """Subtract in place."""
        return np.subtract(self, other, out=self)

    def mul_(self, other: Any) -> HostArray:
        """Multiply in place."""
        return np.multiply(self, other, out=self)

    def div_(self, other: Any) -> HostArray:
        """Divide in place."""
        return np.divide(self, other, out=self)

    def neg_(self) -> HostArray:
        """Negate in place."""
        return cast('HostArray', np.negative(self, out=self))

    def abs(self) -> HostArray:
        """Return absolute values."""
        return cast('HostArray', np.abs(self))

    def abs_(self) -> HostArray:
        """Take absolute values in place."""
        return cast('HostArray', np.abs(self, out=self))

    def floor(self) -> HostArray:
        """Return the largest whole numbers that are not above."""
        return cast('HostArray', np.floor(self))

    def clamp(self, min: Number | None = None, max: Number | None = None) -> HostArray:
        """Return values no lower than `min` and no higher than `max`."""
        return self.copy().clamp_(min, max)

    def clamp_(self, min: Number | None = None, max: Number | None = None) -> HostArray:
        """Clamp in place."""
        if min is not None:
            np.maximum(self, min, out=self)
        return self if max is None else np.minimum(self, max, out=self)

    def bitwise_and_(self, word: Word) -> HostArray:
        """Keep the bits of a word, in place."""
        return np.bitwise_and(self, word, out=self)

    def bitwise_or_(self, word: Word) -> HostArray:
        """Set the bits of a word, in place."""
        return np.bitwise_or(self, word, out=self)

    def clone(self) -> HostArray:
        """Return a copy."""
        return self.copy()

    def copy_(self, other: Any) -> HostArray:
        """Take over another array's values."""
        self[...] = other
        return self

    def float(self) -> HostArray:
        """Return as float32; itself if it is."""
        return self.astype(np.float32, copy=False)

    def int(self) -> HostArray:
        """Return as int32, cut towards zero; itself if it is."""
        return self.astype(np.int32, copy=False)

    def expand(self, shape: Shape) -> HostArray:
        """Return a view repeated to a shape."""
        return cast('HostArray', np.broadcast_to(self, shape, subok=True))

    def index_select(self, axis: Word, index: HostArray) -> HostArray:
        """Return the entries at an index [n] along an axis."""
        return self.take(index, axis=axis)


def quiet(function: Function) -> Function:
    """Let a function compute with infinities and NaN without a warning, as tensors do."""
    return np.errstate(all='ignore')(function)


def from_numpy(values: npt.NDArray[Any], device: Device) -> Array:
    """Bring an array to a device, with its type; may share the array's memory."""
    if device == NUMPY:
        return _host(values)
    return cast('Array', _torch().from_numpy(np.ascontiguousarray(values)).to(device))


def empty_bytes(shape: Shape, device: Device) -> Array:
    """Return a uint8 array that holds anything."""
    if device == NUMPY:
        return _host(np.empty(shape, dtype=np.uint8))
    torch = _torch()
    return cast('Array', torch.empty(shape, dtype=torch.uint8, device=device))


def is_cpu(device: Device) -> bool:
    """Tell whether a device is the CPU, NUMPY or PyTorch's."""
    return device == NUMPY or _torch().device(device).type == 'cpu'


def cat(parts: Sequence[Array], axis: int = 0) -> Array:
    """Return arrays joined along an axis."""
    if isinstance(parts[0], HostArray):
        return _host(np.concatenate(parts, axis=axis))
    return cast('Array', _torch().cat(parts, dim=axis))


def where(condition: Array, yes: Array | float, no: Array | float) -> Array:
    """Choose between arrays or numbers; floating-point numbers alone make float32."""
    if not isinstance(condition, HostArray):
        return cast('Array', _torch().where(condition, yes, no))
    chosen = np.where(condition, yes, no)
    return _host(chosen.astype(np.float32) if chosen.dtype == np.float64 else chosen)


def maximum(a: Array, b: Array, out: Any = None) -> Array:
    """Return the larger of each two; `out` takes the result if given."""
    if isinstance(a, HostArray):
        return cast('Array', np.maximum(a, b, out=out))
    return cast('Array', _torch().maximum(a, b, out=out))


def minimum(a: Array, b: Array, out: Any = None) -> Array:
    """Return the smaller of each two; `out` takes the result if given."""
    if isinstance(a, HostArray):
        return cast('Array', np.minimum(a, b, out=out))
    return cast('Array', _torch().minimum(a, b, out=out))


def sqrt(values: Array) -> Array:
    """Return square roots."""
    return sqrt_(values.clone())


def sqrt_(values: Array) -> Array:
    """Take square roots in place.

    NumPy's for tensors on a CPU too: PyTorch's there are MKL's, which miss the nearest float32 by
    one step for one value in six or in 160, depending on the processor's maker.
    """
    if isinstance(values, HostArray):
        return cast('Array', np.sqrt(values, out=values))
    if values.device.type != 'cpu':
        return values.sqrt_()
    shared = values.numpy()
    np.sqrt(shared, out=shared)
    return values


def copysign(size: Array, sign: Array) -> Array:
    """Return the sizes of one array with the signs of the other."""
    if isinstance(size, HostArray):
        return cast('Array', np.copysign(size, sign))
    return cast('Array', _torch().copysign(size, sign))


def inverse(values: Array) -> Array:
    """Return 1 / values."""
    if isinstance(values, HostArray):
        return cast('Array', np.divide(1.0, values))
    # Not reciprocal(), which some devices approximate.
    return cast('Array', _torch().ones_like(values).div_(values))


def zeros_like(values: Array) -> Array:
    """Return zeros of the same shape and type."""
    if isinstance(values, HostArray):
        return cast('Array', np.zeros_like(values))
    return cast('Array', _torch().zeros_like(values))


def bits_of(values: Array) -> Array:
    """Return the bits of float32 as int32, in the same memory."""
    return _viewed(values, 'int32')


def from_bits(words: Array) -> Array:
    """Return the float32 whose bits are int32, in the same memory."""
    return _viewed(words, 'float32')


def _viewed(values: Any, kind: str) -> Array:
    return cast(
        'Array', values.view(getattr(np if isinstance(values, HostArray) else _torch(), kind))
    )


def _host(values: npt.NDArray[Any]) -> Array:
    return cast('Array', values.view(HostArray))


@cache
def _torch() -> Any:
    """Load PyTorch once it is needed: a robot renders without it."""
    return importlib.import_module('torch')
