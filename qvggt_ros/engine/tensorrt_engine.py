# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Run a bundle on an NVIDIA GPU with engines that TensorRT or TensorRT-RTX has built.

Images go to the GPU, poses and depths come back; tokens and taps stay there. All memory for a
window is reserved at the start, but for the tokens of frames that somebody holds on to.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qvggt_ros.engine.built import find_key, key_for, read_built
from qvggt_ros.engine.cuda_device import CudaDevice, DeviceMemory, PinnedArray
from qvggt_ros.engine.interface import Float32Array, WindowOutput, check_frames, check_images
from qvggt_ros.engine.manifest import Manifest
from qvggt_ros.engine.sidecar import EngineKey
from qvggt_ros.engine.tensorrt_library import load_library, make_logger
from qvggt_ros.engine.tensorrt_runner import GraphRunner, GraphTensor
from qvggt_ros.errors import EngineError


def open_built(folder: Path, manifest: Manifest, engine: str) -> TensorRTEngine:
    """Load the newest engines that a bundle has for this machine.

    Args:
        folder: the bundle.
        manifest: its manifest, already verified.
        engine: `tensorrt` or `tensorrt_rtx`.

    Raises:
        EngineError: a library, the GPU or engines for it are missing, or something about the
            engines is not what it should be.

    """
    library = load_library(engine)
    device = CudaDevice()
    wanted = key_for(manifest, engine, str(library.__version__), device.target)
    key = find_key(folder, wanted)
    _, engines = read_built(folder, manifest, key)
    return TensorRTEngine(device, library, manifest, key, engines)


class DeviceTokens:
    """One frame's tokens [P, D] on the GPU; their memory is used again when they are dropped."""

    def __init__(self, device: CudaDevice, nbytes: int, unused: list[DeviceMemory]) -> None:
        self._memory = unused.pop() if unused else DeviceMemory(device, nbytes)
        self.owner = unused
        self.address = self._memory.address

    def __del__(self) -> None:
        if hasattr(self, '_memory'):
            self.owner.append(self._memory)


@dataclass(frozen=True)
class DeviceTaps:
    """A window's taps, which lie in the window graph's outputs until the next window."""

    owner: TensorRTEngine
    window: int


class TensorRTEngine:
    """The three graphs of a bundle as engines on the first GPU; token handles: `DeviceTokens`.

    A context of CUDA and TensorRT belongs to the thread that made it: another thread is refused.

    Attributes:
        manifest: of the bundle.
        key: of the engines.

    """

    def __init__(
        self,
        device: CudaDevice,
        library: Any,
        manifest: Manifest,
        key: EngineKey,
        engines: Iterable[tuple[str, bytes]],
    ) -> None:
        """Load verified engines, one after another.

        Args:
            device: the GPU.
            library: `tensorrt` or `tensorrt_rtx`.
            manifest: of the bundle.
            key: what the engines were built for.
            engines: name of each graph and its engine; not held, they are as large as the weights.

        Raises:
            EngineError: one cannot be loaded, or there is too little memory.

        """
        self.manifest, self.key = manifest, key
        self._device, self._frames = device, key.frames
        self._thread = threading.get_ident()
        logger = make_logger(library)
        self._runners = {
            name: GraphRunner(
                device,
                library,
                logger,
                manifest.graphs[name],
                content,
                key.frames,
                f'{key.engine} {key.engine_version}: {name} engine',
            )
            for name, content in engines
        }
        image = (3, manifest.image_height, manifest.image_width)
        self._images = PinnedArray(device, (key.frames, *image))
        self._found = {
            name: PinnedArray(device, (key.frames, *tensor.frame_shape))
            for graph, names in (('window', ['pose_enc']), ('depth', ['depth', 'depth_conf']))
            for name, tensor in self._runners[graph].outputs.items()
            if name in names
        }
        self._unused_tokens: list[DeviceMemory] = []
        self._windows = 0

    def encode(self, images: Float32Array) -> list[DeviceTokens]:
        """Encode frames: [n, 3, H, W] float32 -> n handles."""
        self._check_thread()
        check_images(images, self.manifest)
        encoded: list[DeviceTokens] = []
        for begin in range(0, len(images), self._frames):
            encoded += self._encode_some(images[begin : begin + self._frames])
        return encoded

    def window(self, tokens: Sequence[DeviceTokens]) -> WindowOutput:
        """Relate the frames of a window; its taps stay valid until the next one."""
        self._check_thread()
        if not 1 <= len(tokens) <= self._frames:
            raise EngineError(
                f'tokens: a window of {len(tokens)} frames; these engines were built for 1 to '
                f'{self._frames} (qvggt build --frames)'
            )
        runner = self._runners['window']
        gathered = runner.inputs['tokens']
        for index, frame in enumerate(tokens):
            if not isinstance(frame, DeviceTokens) or frame.owner is not self._unused_tokens:
                raise EngineError(f'tokens: frame {index} was not encoded by this engine')
            self._device.within(gathered.at(index), frame.address, gathered.frame_bytes)
        runner.run(len(tokens))
        self._windows += 1
        (pose_enc,) = self._fetch(runner, ['pose_enc'], len(tokens))
        return WindowOutput(pose_enc=pose_enc, taps=DeviceTaps(self, self._windows))

    def depth(
        self, window: WindowOutput, frames: Sequence[int]
    ) -> tuple[Float32Array, Float32Array]:
        """Decode depth and confidence, each [k, H, W], for the chosen frames."""
        self._check_thread()
        check_frames(frames, window)
        taps = window.taps
        if not isinstance(taps, DeviceTaps) or taps.owner is not self:
            raise EngineError('taps: not of a window of this engine')
        if taps.window != self._windows:
            raise EngineError('taps: of an earlier window, whose memory has been used again')
        size = (len(frames), self.manifest.image_height, self.manifest.image_width)
        depth, conf = np.empty(size, np.float32), np.empty(size, np.float32)
        for begin in range(0, len(frames), self._frames):
            some = list(frames[begin : begin + self._frames])
            part = slice(begin, begin + len(some))
            depth[part], conf[part] = self._decode_some(some)
        return depth, conf

    def _encode_some(self, images: Float32Array) -> list[DeviceTokens]:
        runner = self._runners['encoder']
        count, target = len(images), runner.inputs['images']
        self._images.array[:count] = images
        self._device.to_device(target.address, self._images.address, count * target.frame_bytes)
        runner.run(count)
        made = runner.outputs['tokens']
        encoded = []
        for index in range(count):
            frame = DeviceTokens(self._device, made.frame_bytes, self._unused_tokens)
            self._device.within(frame.address, made.at(index), made.frame_bytes)
            encoded.append(frame)
        # The images' memory is written again by the next call.
        self._device.synchronize()
        return encoded

    def _decode_some(self, frames: list[int]) -> list[Float32Array]:
        runner, taps = self._runners['depth'], self._runners['window'].outputs
        for name, target in runner.inputs.items():
            _gather(self._device, target, taps[name], frames)
        runner.run(len(frames))
        return self._fetch(runner, ['depth', 'depth_conf'], len(frames))

    def _fetch(self, runner: GraphRunner, names: list[str], frames: int) -> list[Float32Array]:
        """Return copies of outputs, once everything is done."""
        for name in names:
            source, target = runner.outputs[name], self._found[name]
            self._device.to_host(target.address, source.address, frames * source.frame_bytes)
        self._device.synchronize()
        return [self._found[name].array[:frames].copy() for name in names]

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise EngineError(
                f'{self.key.engine}: used in thread {threading.current_thread().name!r}, but made '
                'in another; CUDA wants one thread to do both'
            )


def _gather(
    device: CudaDevice, target: GraphTensor, source: GraphTensor, frames: list[int]
) -> None:
    """Queue copies of the chosen frames; neighbours go in one."""
    begin = 0
    while begin < len(frames):
        end = begin + 1
        while end < len(frames) and frames[end] == frames[end - 1] + 1:
            end += 1
        nbytes = (end - begin) * target.frame_bytes
        device.within(target.at(begin), source.at(frames[begin]), nbytes)
        begin = end
