# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One built graph on the GPU, with memory of its own that is reserved once."""

from __future__ import annotations

import math
from typing import Any

from qvggt_ros.engine.cuda_device import FLOAT32_BYTES, CudaDevice, DeviceMemory
from qvggt_ros.engine.manifest import GraphInfo, TensorInfo
from qvggt_ros.engine.tensorrt_library import one_line
from qvggt_ros.errors import EngineError


class GraphTensor:
    """An input or output: memory for the largest window, frames one after another.

    Attributes:
        frame_shape: of one frame.
        frame_bytes: of one frame, float32.
        address: on the GPU, of frame 0.

    """

    def __init__(self, device: CudaDevice, info: TensorInfo, frames: int) -> None:
        self.frame_shape = tuple(int(size) for size in info.shape[1:])
        self.frame_bytes = FLOAT32_BYTES * math.prod(self.frame_shape)
        self._memory = DeviceMemory(device, frames * self.frame_bytes)
        self.address = self._memory.address

    def at(self, frame: int) -> int:
        """Return the address of a frame."""
        return self.address + frame * self.frame_bytes


class GraphRunner:
    """Queues runs of one graph.

    The second run of a shape is recorded as a CUDA graph, and further ones replay it: what a
    window costs the CPU then no longer depends on the number of layers. A robot's shapes do not
    change; where they do, recording starts again.

    Attributes:
        inputs, outputs: by name.

    """

    def __init__(
        self,
        device: CudaDevice,
        library: Any,
        logger: Any,
        info: GraphInfo,
        content: bytes,
        frames: int,
        label: str,
    ) -> None:
        """Load an engine whose bytes were verified.

        Args:
            device: the GPU.
            library: `tensorrt` or `tensorrt_rtx`.
            logger: keeps the library's last complaint as `last`.
            info: the graph, as in the bundle's manifest.
            content: the engine.
            frames: the largest window.
            label: names the engine in messages.

        Raises:
            EngineError: it cannot be loaded, or is not the manifest's graph.

        """
        self._device, self._logger, self._label = device, logger, label
        self._runtime = library.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise EngineError(f'{label} cannot be loaded: {one_line(logger.last)}')
        check_tensors(library, self._engine, info, frames, label)
        self._context = make_context(library, self._engine)
        if self._context is None:
            raise EngineError(f'{label} has no room to run: {one_line(logger.last)}')
        self.inputs = {t.name: GraphTensor(device, t, frames) for t in info.inputs}
        self.outputs = {t.name: GraphTensor(device, t, frames) for t in info.outputs}
        for name, tensor in {**self.inputs, **self.outputs}.items():
            self._accepted(self._context.set_tensor_address(name, tensor.address))
        self._frames = self._runs = 0
        self._records = True
        self._recorded: Any = None

    def run(self, frames: int) -> None:
        """Queue a run on the first `frames` frames of the inputs."""
        if frames != self._frames:
            self._reshape(frames)
        self._runs += 1
        if self._runs == 2 and self._records:
            self._record()
        if self._recorded is None:
            self._enqueue()
        else:
            self._device.call('cudaGraphLaunch', self._recorded, self._device.stream)

    def __del__(self) -> None:
        if getattr(self, '_recorded', None) is not None:
            self._device.runtime.cudaGraphExecDestroy(self._recorded)

    def _reshape(self, frames: int) -> None:
        self._forget_recording()
        self._frames = 0  # whatever goes wrong below, the next run sets its shape
        for name, tensor in self.inputs.items():
            shape = (frames, *tensor.frame_shape)
            self._accepted(self._context.set_input_shape(name, shape))
        for name, tensor in self.outputs.items():
            found = tuple(self._context.get_tensor_shape(name))
            if found != (frames, *tensor.frame_shape):
                raise EngineError(
                    f'{self._label}: {name} is {list(found)} for {frames} frames, must be '
                    f'{[frames, *tensor.frame_shape]}'
                )
        self._frames, self._runs = frames, 0

    def _enqueue(self) -> None:
        self._accepted(self._context.execute_async_v3(self._device.stream))

    def _record(self) -> None:
        """Record a run; where that is not possible, go on without."""
        device, runtime = self._device, self._device.runtime
        # TensorRT-RTX can say whether it may be recorded; with TensorRT it is tried.
        capturable = getattr(self._context, 'is_stream_capturable', None)
        if capturable is not None and not capturable(device.stream):
            self._records = False
            return
        # Only this thread's calls are held to the rules of recording: ROS has threads of its own.
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        device.call('cudaStreamBeginCapture', device.stream, mode)
        accepted = self._context.execute_async_v3(device.stream)
        try:
            # Called in any case: it is also what takes the stream out of recording.
            graph = device.call('cudaStreamEndCapture', device.stream)
            if not accepted:
                raise EngineError(one_line(self._logger.last))
            self._recorded = device.call('cudaGraphInstantiate', graph, 0)
            device.call('cudaGraphDestroy', graph)
        except EngineError:
            self._records = False

    def _forget_recording(self) -> None:
        if self._recorded is not None:
            # What it was replayed for last may still be running.
            self._device.synchronize()
            self._device.call('cudaGraphExecDestroy', self._recorded)
            self._recorded = None

    def _accepted(self, answer: bool) -> None:
        if not answer:
            raise EngineError(f'{self._label} failed: {one_line(self._logger.last)}')


def make_context(library: Any, engine: Any) -> Any:
    """Return what runs an engine; None where the library cannot make it.

    TensorRT-RTX compiles kernels for a shape when it meets it, by default while general ones do
    the work: they would be what is recorded. Here it compiles first.
    """
    strategies = getattr(library, 'DynamicShapesKernelSpecializationStrategy', None)
    if strategies is None:
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    return engine.create_execution_context(config)


def check_tensors(library: Any, engine: Any, info: GraphInfo, frames: int, label: str) -> None:
    """Refuse an engine whose tensors or sizes of window are not the manifest's (EngineError)."""
    modes = library.TensorIOMode
    expected = {t.name: (modes.INPUT, t) for t in info.inputs}
    expected |= {t.name: (modes.OUTPUT, t) for t in info.outputs}
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    if set(names) != set(expected):
        raise EngineError(
            f'{label} has tensors {", ".join(sorted(names))}; the manifest says '
            f'{", ".join(sorted(expected))}'
        )
    for name, (mode, tensor) in expected.items():
        shape = tuple(engine.get_tensor_shape(name))
        # Sizes that the library has not worked out, -1, are compared when a shape is given.
        fits = len(shape) == len(tensor.shape) and all(
            size in (-1, wanted) for size, wanted in zip(shape[1:], tensor.shape[1:], strict=True)
        )
        if (
            not fits
            or engine.get_tensor_mode(name) != mode
            or engine.get_tensor_dtype(name) != library.DataType.FLOAT
        ):
            raise EngineError(
                f'{label}: {name} is {engine.get_tensor_dtype(name)} {list(shape)}; the manifest '
                f'says {tensor.dtype} {list(tensor.shape)}'
            )
        if mode == modes.INPUT:
            least, _, most = engine.get_tensor_profile_shape(name, 0)
            if (least[0], most[0]) != (1, frames):
                raise EngineError(
                    f'{label} takes {least[0]} to {most[0]} frames, not 1 to {frames}'
                )
