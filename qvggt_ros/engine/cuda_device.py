# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The GPU's memory and its one queue of work, through NVIDIA's `cuda.bindings`.

Every call is checked, and what failed is said in one line.
"""

from __future__ import annotations

import ctypes
import importlib
import math
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.errors import EngineError

RUNTIME_MODULE = 'cuda.bindings.runtime'
FLOAT32_BYTES = 4


def cuda_runtime() -> ModuleType:
    """Import the CUDA runtime's bindings; EngineError says how to get them."""
    try:
        return importlib.import_module(RUNTIME_MODULE)
    except (ImportError, OSError) as error:
        raise EngineError(
            f'the GPU cannot be reached ({error}); pip install "cuda-python" of the major version '
            'of CUDA on this machine'
        ) from error


class CudaDevice:
    """The first GPU, and the stream that everything runs on, in the order it was asked for."""

    def __init__(self, runtime: Any = None) -> None:
        """Reach the GPU; EngineError where there is none, or the bindings are missing."""
        self.runtime = cuda_runtime() if runtime is None else runtime
        self.target = compute_capability(self.runtime)
        stream = self.call('cudaStreamCreateWithFlags', self.runtime.cudaStreamNonBlocking)
        self.stream = int(stream)

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the runtime; return its result (None without one) or raise."""
        status, *found = getattr(self.runtime, name)(*arguments)
        if int(status):
            self.runtime.cudaGetLastError()  # or the next call, of whomever, would see it too
            raise EngineError(f'CUDA: {name} failed: {error_name(self.runtime, status)}')
        return found[0] if found else None

    def to_device(self, target: int, source: int, nbytes: int) -> None:
        """Queue a copy from pinned memory to the GPU; both are addresses."""
        self._copy(target, source, nbytes, 'cudaMemcpyHostToDevice')

    def to_host(self, target: int, source: int, nbytes: int) -> None:
        """Queue a copy from the GPU to pinned memory."""
        self._copy(target, source, nbytes, 'cudaMemcpyDeviceToHost')

    def within(self, target: int, source: int, nbytes: int) -> None:
        """Queue a copy from one place of the GPU's memory to another."""
        self._copy(target, source, nbytes, 'cudaMemcpyDeviceToDevice')

    def synchronize(self) -> None:
        """Wait until everything that was queued is done."""
        self.call('cudaStreamSynchronize', self.stream)

    def _copy(self, target: int, source: int, nbytes: int, kind: str) -> None:
        kinds = self.runtime.cudaMemcpyKind
        self.call('cudaMemcpyAsync', target, source, nbytes, getattr(kinds, kind), self.stream)


class DeviceMemory:
    """Memory of the GPU, given back when nobody holds it any more."""

    def __init__(self, device: CudaDevice, nbytes: int) -> None:
        """Reserve `nbytes`; EngineError where the GPU has no more."""
        self.nbytes = nbytes
        self._free = device.runtime.cudaFree
        self.address = 0
        try:
            self.address = int(device.call('cudaMalloc', nbytes))
        except EngineError as error:
            raise EngineError(
                f'{nbytes / 1e6:.0f} MB of GPU memory cannot be had: {error}'
            ) from error

    def __del__(self) -> None:
        if getattr(self, 'address', 0):
            self._free(self.address)


class PinnedArray:
    """A float32 array that the GPU copies from and to without the help of the CPU."""

    def __init__(self, device: CudaDevice, shape: tuple[int, ...]) -> None:
        """Reserve it; EngineError where this machine has no more memory."""
        self.nbytes = FLOAT32_BYTES * math.prod(shape)
        self._free = device.runtime.cudaFreeHost
        self.address = 0
        self.address = int(device.call('cudaMallocHost', self.nbytes))
        content = (ctypes.c_char * self.nbytes).from_address(self.address)
        # Never handed out: the memory goes when this object does, whoever still looks at it.
        self.array: NDArray[np.float32] = np.frombuffer(memoryview(content), np.float32).reshape(
            shape
        )

    def __del__(self) -> None:
        if getattr(self, 'address', 0):
            self._free(self.address)


def compute_capability(runtime: Any = None) -> str:
    """Return the first GPU's compute capability, `sm_87`; EngineError where there is none."""
    runtime = cuda_runtime() if runtime is None else runtime
    numbers = []
    for part in ('Major', 'Minor'):
        attribute = getattr(runtime.cudaDeviceAttr, f'cudaDevAttrComputeCapability{part}')
        status, number = runtime.cudaDeviceGetAttribute(attribute, 0)
        if int(status):
            raise EngineError(f'no usable GPU here ({error_name(runtime, status)})')
        numbers.append(number)
    return 'sm_{}{}'.format(*numbers)


def error_name(runtime: Any, status: Any) -> str:
    """Return what CUDA calls an error."""
    _, name = runtime.cudaGetErrorName(status)
    return name.decode() if isinstance(name, bytes) else str(status)
