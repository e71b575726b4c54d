# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Compile one graph with TensorRT or TensorRT-RTX, which share one interface.

What is asked for may be ended at any step: by the one who is told of the progress, or by Ctrl-C.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qvggt_ros.engine.sidecar import EngineKey
from qvggt_ros.engine.tensorrt_library import make_logger, one_line
from qvggt_ros.errors import EngineError

# (phase, steps done, steps in all) -> whether to go on
Steps = Callable[[str, int, int], bool]


class Compiler:
    """Compiles the graphs of one bundle, which share what is learned about the GPU's kernels."""

    def __init__(self, library: Any, key: EngineKey, workspace_mb: int | None, timings: bytes):
        """Prepare.

        Args:
            library: `tensorrt` or `tensorrt_rtx`.
            key: what to compile for.
            workspace_mb: most memory to try kernels with; None: all.
            timings: of kernels tried before, as `timings` was left by another run; or nothing.
                TensorRT-RTX has none.

        """
        self.timings = timings
        self._library, self._key, self._workspace_mb = library, key, workspace_mb

    def compile(self, graph: Path, label: str, steps: Steps) -> memoryview:
        """Parse and compile a rewritten graph.

        Args:
            graph: its file; weights may lie beside it.
            label: names it in messages.
            steps: told how far it is; False ends it.

        Raises:
            EngineError: the library refuses the graph, in its own words, or was told to end.
            KeyboardInterrupt: somebody pressed Ctrl-C.

        """
        library = self._library
        logger = make_logger(library)
        builder = library.Builder(logger)
        network = builder.create_network(_creation_flags(library))
        parser = library.OnnxParser(network, logger)
        if not parser.parse_from_file(str(graph)):
            reason = parser.get_error(0).desc() if parser.num_errors else logger.last
            raise EngineError(f'{label} is not understood: {one_line(reason)}')
        config = self._config(builder, network)
        cache = self._timing_cache(config)
        monitor = make_monitor(library, steps)
        config.progress_monitor = monitor
        with interrupts_end(monitor):
            engine = builder.build_serialized_network(network, config)
        if monitor.error is not None:
            raise monitor.error
        if monitor.ended:
            raise EngineError(f'{label}: the build was ended')
        if engine is None:
            raise EngineError(f'{label} cannot be built: {one_line(logger.last)}')
        if cache is not None:
            self.timings = bytes(memoryview(cache.serialize()))
        return memoryview(engine)

    def _timing_cache(self, config: Any) -> Any:
        """Return the cache that a build reads and fills; None where kernels are not timed."""
        if self._key.engine == 'tensorrt_rtx':
            return None
        cache = config.create_timing_cache(self.timings)
        # False: what was measured on another GPU, or by another version, is not taken.
        if not config.set_timing_cache(cache, False):
            cache = config.create_timing_cache(b'')
            config.set_timing_cache(cache, False)
        return cache

    def _config(self, builder: Any, network: Any) -> Any:
        library, config = self._library, builder.create_builder_config()
        if self._key.engine == 'tensorrt_rtx':  # the other one builds for the GPU that is here
            config.num_compute_capabilities = 1
            config.set_compute_capability(capability(library, self._key.target), 0)
        if self._workspace_mb is not None:
            pool = library.MemoryPoolType.WORKSPACE
            config.set_memory_pool_limit(pool, self._workspace_mb << 20)
        config.add_optimization_profile(_profile(builder, network, self._key.frames))
        return config


def capability(library: Any, target: str) -> Any:
    """Return TensorRT-RTX's name of a compute capability, `sm_86`; None if it has none."""
    name = target.replace('sm_', 'SM', 1)
    return getattr(library.ComputeCapability, name, None) if name.startswith('SM') else None


def _creation_flags(library: Any) -> int:
    """Ask for a network whose types are those of the graph; TensorRT 11 has no other."""
    flag = getattr(library.NetworkDefinitionCreationFlag, 'STRONGLY_TYPED', None)
    return 0 if flag is None else 1 << int(flag)


def _profile(builder: Any, network: Any, frames: int) -> Any:
    """Allow 1 to `frames` frames in every input; the largest window is the one to be fast at."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = list(tensor.shape)[1:]
        profile.set_shape(tensor.name, [1, *shape], [frames, *shape], [frames, *shape])
    return profile


def make_monitor(library: Any, steps: Steps) -> Any:
    """Return what tells how far a build is, and ends it where it should not go on.

    No exception may cross the library: what `steps` raises is kept as `error`.
    """

    class Monitor(library.IProgressMonitor):
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self.ended = False
            self.error: BaseException | None = None
            self._totals: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, count: int) -> None:
            self._totals[phase] = count

        def step_complete(self, phase: str, step: int) -> bool:
            try:
                if not steps(phase, step, self._totals.get(phase, step)):
                    self.ended = True
            except BaseException as error:
                self.error = error
                self.ended = True
            return not self.ended

        def phase_finish(self, phase: str) -> None:
            self._totals.pop(phase, None)

    return Monitor()


@contextmanager
def interrupts_end(monitor: Any) -> Iterator[None]:
    """Let Ctrl-C, and being asked to end, end the build at its next step."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return

    def end(number: int, frame: object) -> None:
        monitor.error = KeyboardInterrupt()
        monitor.ended = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
