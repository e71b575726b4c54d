# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Run a bundle with ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from qvggt_ros.engine.interface import (
    Float32Array,
    WindowOutput,
    check_frames,
    check_images,
)
from qvggt_ros.engine.manifest import GRAPHS, GraphInfo, Manifest, TensorInfo, bundle_path
from qvggt_ros.engine.onnx_file import check_graph_file
from qvggt_ros.engine.onnx_message import GraphInMemory
from qvggt_ros.engine.unpacked_weights import with_unpacked_convolutions
from qvggt_ros.engine.unsigned_weights import products_overflow, with_unsigned_weights
from qvggt_ros.errors import EngineError, first_line

Tokens = NDArray[np.float32]
_ORT_FLOAT32 = 'tensor(float)'


class OnnxRuntimeEngine:
    """The three graphs of a bundle as CPU sessions; token handles are numpy arrays [P, D]."""

    def __init__(self, folder: Path, manifest: Manifest, threads: int = 0) -> None:
        """Load the graphs.

        Args:
            folder: the bundle.
            manifest: its manifest, already verified.
            threads: CPU threads of one graph; 0 leaves the number to ONNX Runtime.

        Raises:
            BundleError: a graph reads other files or runs other code than a bundle's.
            EngineError: a graph cannot be loaded or is not the one that the manifest describes.

        """
        if threads < 0:
            raise EngineError(f'threads={threads}: must be 0 (automatic) or more')
        self.manifest = manifest
        for graph in manifest.graphs.values():
            check_graph_file(folder, graph)
        self._sessions = {
            name: open_graph(bundle_path(folder, manifest.graphs[name].file), threads)
            for name in GRAPHS
        }
        large = any(graph.data_file is not None for graph in manifest.graphs.values())
        self._run_options = _giving_back_memory() if large else None
        for name, session in self._sessions.items():
            _check_tensors(folder / manifest.graphs[name].file, manifest.graphs[name], session)

    def encode(self, images: Float32Array) -> list[Tokens]:
        """Encode frames: [n, 3, H, W] float32 -> n handles."""
        check_images(images, self.manifest)
        (tokens,) = self._run('encoder', {'images': images})
        return list(tokens)

    def window(self, tokens: Sequence[Tokens]) -> WindowOutput:
        """Relate the frames of a window; its taps stay valid as long as they are held."""
        if not tokens:
            raise EngineError('tokens: a window needs at least one frame')
        pose_enc, *taps = self._run('window', {'tokens': np.stack(tokens)})
        return WindowOutput(pose_enc=pose_enc, taps=taps)

    def depth(
        self, window: WindowOutput, frames: Sequence[int]
    ) -> tuple[Float32Array, Float32Array]:
        """Decode depth and confidence, each [k, H, W], for the chosen frames."""
        check_frames(frames, window)
        if not frames:
            empty = np.empty(
                (0, self.manifest.image_height, self.manifest.image_width), np.float32
            )
            return empty, empty.copy()
        chosen = list(frames)
        feeds = {f'tap_{k}': tap[chosen] for k, tap in enumerate(window.taps)}
        depth, conf = self._run('depth', feeds)
        return depth, conf

    def _run(self, graph: str, feeds: dict[str, Float32Array]) -> list[Any]:
        try:
            found: list[Any] = self._sessions[graph].run(None, feeds, self._run_options)
        except Exception as error:  # the runtime's own classes share no public root
            raise EngineError(f'{graph} graph failed: {first_line(error)}') from error
        # What a graph says about its outputs binds no runtime.
        frames = len(next(iter(feeds.values())))
        for info, array in zip(self.manifest.graphs[graph].outputs, found, strict=True):
            if array.shape != (frames, *info.shape[1:]):
                raise EngineError(
                    f'{graph} graph failed: {info.name} is {list(array.shape)} for {frames} '
                    f'frames, must be [{frames}, {", ".join(map(str, info.shape[1:]))}]'
                )
        return found


def open_graph(path: Path, threads: int = 0) -> onnxruntime.InferenceSession:
    """Open one graph; no custom-operator library is ever loaded."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # what is wrong comes as an exception, not as lines on stderr
    # Threads sleep while they wait: the robot's other work needs the cores, and on a busy machine
    # active waiting doubled the latency.
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    # Weights of 4 bits are multiplied in float, as they were calibrated; by default their inputs
    # would be rounded to 8 bits.
    options.add_session_config_entry('session.qdq_matmulnbits_accuracy_level', '1')
    changed = _rewritten(path)
    if changed is not None:
        options.add_session_config_entry(
            'session.model_external_initializers_file_folder_path', str(path.parent)
        )
    try:
        if changed is not None and changed.external:
            options.add_external_initializers(*_values(changed.external))
        # By default it tries again with the same provider, and says so in three lines on stdout.
        return onnxruntime.InferenceSession(
            str(path) if changed is None else changed.model,
            sess_options=options,
            providers=['CPUExecutionProvider'],
            enable_fallback=0,
        )
    except Exception as error:  # the runtime's own classes share no public root
        raise EngineError(
            f'{path}: ONNX Runtime {onnxruntime.__version__} cannot load it: {first_line(error)}'
        ) from error


def _rewritten(path: Path) -> GraphInMemory | None:
    """Read a graph with its weights in the form that this processor wants; None: as they are."""
    try:
        data = path.read_bytes()
        unpacked = with_unpacked_convolutions(data, path.parent)
        data = unpacked or data
        unsigned = with_unsigned_weights(data, path.parent) if products_overflow() else None
    except (OSError, LookupError, ValueError) as error:
        raise EngineError(f'{path}: its weights cannot be read: {first_line(error)}') from error
    return unsigned or (GraphInMemory(unpacked, {}) if unpacked else None)


def _values(
    arrays: dict[str, NDArray[np.uint8]],
) -> tuple[list[str], list[onnxruntime.OrtValue]]:
    """Return names and runtime values."""
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
    return list(arrays), values


def _giving_back_memory() -> onnxruntime.RunOptions:
    """Let a graph give back what it worked in, for the next one: a third of VGGT-1B's memory."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry('memory.enable_memory_arena_shrinkage', 'cpu:0')
    return options


def _check_tensors(path: Path, info: GraphInfo, session: onnxruntime.InferenceSession) -> None:
    """Refuse a graph whose tensors are not the manifest's."""
    try:
        tensors = {
            kind: [(tensor.name, tensor.type, tensor.shape) for tensor in found]
            for kind, found in (
                ('inputs', session.get_inputs()),
                ('outputs', session.get_outputs()),
            )
        }
    except UnicodeDecodeError as error:
        raise EngineError(f'{path}: a name of its inputs or outputs is no text') from error
    for kind, listed in (('inputs', info.inputs), ('outputs', info.outputs)):
        wanted = [tensor.name for tensor in listed]
        names = [name for name, _, _ in tensors[kind]]
        if names != wanted:
            raise EngineError(
                f'{path}: {kind} are {", ".join(names)!r:.200}; the manifest says '
                f'{", ".join(wanted)}'
            )
        for tensor, (_, dtype, shape) in zip(listed, tensors[kind], strict=True):
            _check_tensor(path, tensor, dtype, shape)


def _check_tensor(path: Path, info: TensorInfo, dtype: str, shape: list[int | str | None]) -> None:
    """Refuse a tensor of another type or of other fixed sizes than the manifest's."""
    fits = dtype == _ORT_FLOAT32 and len(shape) == len(info.shape)
    if fits:
        sizes = zip(info.shape, shape, strict=True)
        fits = all(size in (wanted, None) or isinstance(size, str) for wanted, size in sizes)
    if not fits:
        raise EngineError(
            f'{path}: {info.name} is {dtype!r:.80} {shape!r:.80}; the manifest says '
            f'{info.dtype} {list(info.shape)}'
        )
