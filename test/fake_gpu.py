# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A stand-in for a GPU, CUDA and TensorRT: no GPU computes here, ONNX Runtime does.

It is strict where a GPU is silent or crashes. What is queued happens only when somebody waits for
it, so that memory which is read or used again too early holds the wrong numbers. Addresses are of
real memory, which is filled with NaN when it is given and when it is taken back, and no copy may
leave its allocation.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import Enum, IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

Work = Callable[[], object]
ALIGNMENT = 256


class Status(IntEnum):
    OK = 0
    INVALID = 1
    OUT_OF_MEMORY = 2


class FakeCuda:
    """As much of `cuda.bindings.runtime` as the engine uses.

    Attributes:
        limit: bytes of the GPU's memory.
        used: bytes that are reserved on it.
        calls: names of what was called, in order.
        waits: how often somebody waited for the queue.

    """

    cudaStreamNonBlocking = 1  # noqa: N815 (CUDA's own names)
    cudaMemcpyKind = SimpleNamespace(  # noqa: N815
        cudaMemcpyHostToDevice='hd', cudaMemcpyDeviceToHost='dh', cudaMemcpyDeviceToDevice='dd'
    )
    cudaDeviceAttr = SimpleNamespace(  # noqa: N815
        cudaDevAttrComputeCapabilityMajor=0, cudaDevAttrComputeCapabilityMinor=1
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815

    def __init__(self, limit: int = 1 << 30, target: tuple[int, int] = (8, 7)) -> None:
        self.limit, self.target = limit, target
        self.used = 0
        self.calls: list[str] = []
        self.waits = 0
        self.queue: list[Work] = []
        self.recording: list[Work] | None = None
        self.can_record = True
        self._memory: dict[int, tuple[str, Any, int]] = {}
        self._graphs: dict[int, list[Work]] = {}

    def __getattr__(self, name: str) -> Any:
        function = self.__class__.__dict__.get(f'_{name}')
        if function is None:
            raise AttributeError(name)

        def called(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            answer: tuple[Any, ...] = function(self, *arguments)
            return answer

        return called

    def enqueue(self, work: Work) -> None:
        (self.queue if self.recording is None else self.recording).append(work)

    def block(self, address: int, nbytes: int, kind: str) -> None:
        """Hold that bytes lie inside one allocation of a kind, `d`evice or `h`ost."""
        assert any(
            found == kind and begin <= address and address + nbytes <= begin + size
            for begin, (found, _, size) in self._memory.items()
        ), f'{nbytes} bytes at {address} are no {kind} memory'

    def _reserve(self, kind: str, nbytes: int) -> tuple[Any, ...]:
        if kind == 'd' and self.used + nbytes > self.limit:
            return Status.OUT_OF_MEMORY, None
        content = ctypes.create_string_buffer(nbytes + ALIGNMENT)
        address = -(-ctypes.addressof(content) // ALIGNMENT) * ALIGNMENT
        ctypes.memset(address, 0xFF, nbytes)  # NaN
        self._memory[address] = (kind, content, nbytes)
        self.used += nbytes if kind == 'd' else 0
        return Status.OK, address

    def _release(self, kind: str, address: int) -> tuple[Any, ...]:
        found, _, nbytes = self._memory[address]
        assert found == kind
        self.wait()  # as CUDA does
        ctypes.memset(address, 0xFF, nbytes)
        del self._memory[address]
        self.used -= nbytes if kind == 'd' else 0
        return (Status.OK,)

    def wait(self) -> None:
        queue, self.queue = self.queue, []
        for work in queue:
            work()

    def _cudaDeviceGetAttribute(self, attribute: int, device: int) -> tuple[Any, ...]:  # noqa: N802
        return Status.OK, self.target[attribute]

    def _cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:  # noqa: N802
        return Status.OK, 7

    def _cudaGetLastError(self) -> tuple[Any, ...]:  # noqa: N802
        return (Status.OK,)

    def _cudaGetErrorName(self, status: Any) -> tuple[Any, ...]:  # noqa: N802
        return Status.OK, f'cudaError{Status(status).name}'.encode()

    def _cudaMalloc(self, nbytes: int) -> tuple[Any, ...]:  # noqa: N802
        return self._reserve('d', nbytes)

    def _cudaMallocHost(self, nbytes: int) -> tuple[Any, ...]:  # noqa: N802
        return self._reserve('h', nbytes)

    def _cudaFree(self, address: int) -> tuple[Any, ...]:  # noqa: N802
        return self._release('d', address)

    def _cudaFreeHost(self, address: int) -> tuple[Any, ...]:  # noqa: N802
        return self._release('h', address)

    def _cudaMemcpyAsync(  # noqa: N802
        self, target: int, source: int, nbytes: int, kind: str, stream: int
    ) -> tuple[Any, ...]:
        assert stream == 7
        self.block(source, nbytes, kind[0])
        self.block(target, nbytes, kind[1])
        self.enqueue(lambda: ctypes.memmove(target, source, nbytes))
        return (Status.OK,)

    def _cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        assert self.recording is None, 'waiting ends a recording'
        self.waits += 1
        self.wait()
        return (Status.OK,)

    def _cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:  # noqa: N802
        assert self.recording is None
        self.recording = []
        return (Status.OK,)

    def _cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        assert self.recording is not None
        recorded, self.recording = self.recording, None
        if not self.can_record:
            return Status.INVALID, None
        self._graphs[len(self._graphs) + 1] = recorded
        return Status.OK, len(self._graphs)

    def _cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:  # noqa: N802
        return Status.OK, graph

    def _cudaGraphDestroy(self, graph: int) -> tuple[Any, ...]:  # noqa: N802
        return (Status.OK,)

    def _cudaGraphExecDestroy(self, graph: int) -> tuple[Any, ...]:  # noqa: N802
        assert not self.queue, 'a recording that may still be running'
        self._graphs[graph] = []
        return (Status.OK,)

    def _cudaGraphLaunch(self, graph: int, stream: int) -> tuple[Any, ...]:  # noqa: N802
        self.queue += self._graphs[graph]
        return (Status.OK,)


class FakeContext:
    """Runs a graph of the bundle where TensorRT would run its engine."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address % ALIGNMENT == 0
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if not 1 <= shape[0] <= self.engine.frames:
            return False
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        frames = next(iter(self.shapes.values()))[0]
        return (frames, *self.engine.tensors[name][1][1:])

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 7 and set(self.addresses) == set(self.engine.tensors)
        shapes, addresses = dict(self.shapes), dict(self.addresses)
        self.engine.cuda.enqueue(lambda: self._run(shapes, addresses))
        return self.engine.works

    def _run(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        feeds = {n: self._array(addresses[n], shape).copy() for n, shape in shapes.items()}
        found = self.engine.session.run(None, feeds)
        for tensor, array in zip(self.engine.session.get_outputs(), found, strict=True):
            self._array(addresses[tensor.name], array.shape)[...] = array

    def _array(self, address: int, shape: tuple[int, ...]) -> np.ndarray:
        nbytes = 4 * int(np.prod(shape))
        self.engine.cuda.block(address, nbytes, 'd')
        content = (ctypes.c_char * nbytes).from_address(address)
        return np.frombuffer(memoryview(content), np.float32).reshape(shape)


class Mode(Enum):
    INPUT = 1
    OUTPUT = 2


class FakeEngine:
    """An "engine" is the path of the graph that it runs."""

    def __init__(self, cuda: FakeCuda, path: Path, frames: int) -> None:
        self.cuda, self.frames, self.works = cuda, frames, True
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options)
        self.tensors = {t.name: (Mode.INPUT, t.shape) for t in self.session.get_inputs()}
        self.tensors |= {t.name: (Mode.OUTPUT, t.shape) for t in self.session.get_outputs()}
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return self.tensors[name][0]

    def get_tensor_dtype(self, name: str) -> str:
        return 'float32'

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self.tensors[name][1])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        shape = self.get_tensor_shape(name)[1:]
        return [(1, *shape), (self.frames, *shape), (self.frames, *shape)]

    def create_execution_context(self, config: Any = None) -> FakeContext:
        return FakeContext(self)


class FakeTensorRT:
    """As much of `tensorrt` as the engine uses."""

    __version__ = '10.7.0'
    TensorIOMode = Mode
    DataType = SimpleNamespace(FLOAT='float32')

    class ILogger:
        """What loggers derive from."""

        ERROR, INTERNAL_ERROR, WARNING = 1, 0, 2

    def __init__(self, cuda: FakeCuda, frames: int) -> None:
        self.cuda, self.frames = cuda, frames
        self.loaded: list[FakeEngine] = []

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        def deserialize(content: bytes) -> FakeEngine | None:
            if not content.endswith(b'.onnx'):
                logger.log(self.ILogger.ERROR, 'Magic tag does not match\n')
                return None
            self.loaded.append(FakeEngine(self.cuda, Path(content.decode()), self.frames))
            return self.loaded[-1]

        return SimpleNamespace(deserialize_cuda_engine=deserialize)
