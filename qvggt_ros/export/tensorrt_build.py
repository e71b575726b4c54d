# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Build a bundle's three engines with TensorRT or TensorRT-RTX, which share one interface.

TensorRT builds for the GPU of the machine that it runs on. TensorRT-RTX builds for any GPU that is
named, also where there is none. Whole or not at all: the finished folder is renamed into place.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from qvggt_ros.engine.built import (
    BUILT_FOLDER,
    BuiltGraph,
    EngineKey,
    Sidecar,
    engine_file,
    manifest_digest,
    this_machine,
    write_sidecar,
)
from qvggt_ros.engine.manifest import GRAPHS, Manifest, bundle_path
from qvggt_ros.engine.onnx_file import check_graph_file
from qvggt_ros.errors import EngineError, UsageError, first_line
from qvggt_ros.export.tensorrt_graph import GraphTypes, rewrite_graph

# Module and what to install where it is missing.
LIBRARIES = {
    'tensorrt': 'it comes with JetPack, or from NVIDIA: https://developer.nvidia.com/tensorrt',
    'tensorrt_rtx': 'pip install tensorrt-rtx-cu13',
}
# The first TensorRT whose parser knows the standard attention operator (opset 23).
ATTENTION_SINCE = (10, 14)

# (graph, phase, steps done, steps in all) -> whether to go on
Progress = Callable[[str, str, int, int], bool]


@dataclass(frozen=True)
class EngineBuild:
    """What is asked for.

    Attributes:
        engine: a key of `LIBRARIES`.
        target: compute capability of another GPU, `sm_86`; None: this machine's.
        product_type: `float16` or `bfloat16`.
        attention: see `tensorrt_graph.ATTENTIONS`; None: what the library's version fuses.
        workspace_mb: most memory that the builder may try kernels with; None: all.

    """

    engine: str
    target: str | None = None
    product_type: str = 'float16'
    attention: str | None = None
    workspace_mb: int | None = None


def load_library(engine: str) -> ModuleType:
    """Import TensorRT or TensorRT-RTX by name; EngineError says how to get it."""
    if engine not in LIBRARIES:
        raise UsageError(f'engine {engine!r}: must be one of {", ".join(LIBRARIES)}')
    try:
        return importlib.import_module(engine)
    except (ImportError, OSError) as error:
        raise EngineError(
            f'engine {engine!r} is not installed here ({error}); {LIBRARIES[engine]}'
        ) from error


def build_engines(
    bundle: Path,
    manifest: Manifest,
    build: EngineBuild,
    progress: Progress = lambda graph, phase, done, total: True,
) -> tuple[Path, Sidecar]:
    """Build the engines of a bundle; return their folder and what was written about them.

    Args:
        bundle: its folder.
        manifest: its verified manifest.
        build: what is asked for.
        progress: told how far each graph is; False ends the build.

    Raises:
        UsageError: a target or type that the library does not know.
        EngineError: the library is missing, refuses a graph, or the build was ended; nothing is
            left behind.

    """
    library = load_library(build.engine)
    key = _key(library, manifest, build)
    folder = Path(bundle) / BUILT_FOLDER / key.name
    try:
        folder.parent.mkdir(exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix='.building.', dir=folder.parent))
    except OSError as error:
        raise EngineError(f'{folder}: cannot be written: {error.strerror}') from error
    try:
        graphs = {
            name: _build_graph(library, bundle, manifest, name, key, build, work, progress)
            for name in GRAPHS
        }
        sidecar = Sidecar(key, manifest_digest(manifest), graphs)
        write_sidecar(work, sidecar)
        work.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        work.rename(folder)
    except OSError as error:
        raise EngineError(f'{folder}: cannot be written: {error.strerror}') from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder, sidecar


def _key(library: ModuleType, manifest: Manifest, build: EngineBuild) -> EngineKey:
    version = str(library.__version__)
    if build.product_type not in ('float16', 'bfloat16'):
        raise UsageError(f'--type {build.product_type}: must be float16 or bfloat16')
    return EngineKey(
        engine=build.engine,
        engine_version=version,
        target=_target(library, build),
        machine=this_machine(),
        precision=manifest.precision,
        product_type=build.product_type,
        attention=build.attention or fused_attention(build.engine, version),
        frames=manifest.window_frames,
        width=manifest.image_width,
        height=manifest.image_height,
    )


def fused_attention(engine: str, version: str) -> str:
    """Return the spelling of attention that a version of a library fuses."""
    numbers = tuple(int(part) for part in re.findall(r'\d+', version)[:2])
    knows = engine == 'tensorrt_rtx' or numbers >= ATTENTION_SINCE
    return 'operator' if knows else 'pattern'


def _target(library: ModuleType, build: EngineBuild) -> str:
    if build.target is None:
        return this_gpu()
    if build.engine != 'tensorrt_rtx':
        raise UsageError(f'--target: {build.engine} builds for the GPU of this machine only')
    if not hasattr(library.ComputeCapability, _capability(build.target)):
        known = [name for name in dir(library.ComputeCapability) if name.startswith('SM')]
        raise UsageError(
            f'--target {build.target}: {build.engine} {library.__version__} knows '
            f'{", ".join(name.replace("SM", "sm_") for name in known)}'
        )
    return build.target


def _capability(target: str) -> str:
    return target.replace('sm_', 'SM', 1) if re.fullmatch(r'sm_\d+', target) else ''


def this_gpu() -> str:
    """Return this machine's compute capability, `sm_87`; EngineError where there is no GPU."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise EngineError(
            f'the GPU cannot be asked what it is ({error}); pip install cuda-python, or name '
            'another with --target sm_86'
        ) from error
    error_code, properties = runtime.cudaGetDeviceProperties(0)
    if int(error_code):
        raise EngineError(
            f'no usable GPU here (CUDA error {int(error_code)}); name another with --target sm_86'
        )
    return f'sm_{properties.major}{properties.minor}'


def _build_graph(
    library: ModuleType,
    bundle: Path,
    manifest: Manifest,
    name: str,
    key: EngineKey,
    build: EngineBuild,
    work: Path,
    progress: Progress,
) -> BuiltGraph:
    """Rewrite and compile one graph into the work folder."""
    begun = time.monotonic()
    info = manifest.graphs[name]
    progress(name, 'rewriting the graph', 0, 1)
    rewritten = work / f'{name}.onnx'
    types = GraphTypes(key.product_type, key.attention)
    check_graph_file(Path(bundle), info)
    rewrite_graph(bundle_path(Path(bundle), info.file), rewritten, types)
    label = f'{build.engine} {key.engine_version}: {name} graph of {bundle}'
    engine = _compile(library, rewritten, key, build, label, progress, name)
    (work / engine_file(name)).write_bytes(engine)
    for path in work.glob(f'{name}.onnx*'):
        path.unlink()
    seconds = time.monotonic() - begun
    return BuiltGraph(hashlib.sha256(engine).hexdigest(), info.sha256, round(seconds, 1))


def _compile(
    library: Any,
    graph: Path,
    key: EngineKey,
    build: EngineBuild,
    label: str,
    progress: Progress,
    name: str,
) -> memoryview:
    """Parse and compile; the library's own words come with a refusal."""
    logger = _logger(library)
    builder = library.Builder(logger)
    flags = 0
    if hasattr(library.NetworkDefinitionCreationFlag, 'STRONGLY_TYPED'):  # 11 has nothing else
        flags = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = library.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        reason = parser.get_error(0).desc() if parser.num_errors else logger.last
        raise EngineError(f'{label} is not understood: {_line(reason)}')
    config = builder.create_builder_config()
    if build.target is not None:
        config.num_compute_capabilities = 1
        capability = getattr(library.ComputeCapability, _capability(build.target))
        config.set_compute_capability(capability, 0)
    if build.workspace_mb is not None:
        pool = library.MemoryPoolType.WORKSPACE
        config.set_memory_pool_limit(pool, build.workspace_mb << 20)
    config.add_optimization_profile(_profile(builder, network, key.frames))
    monitor = _monitor(library, lambda *step: progress(name, *step))
    config.progress_monitor = monitor
    engine = builder.build_serialized_network(network, config)
    if monitor.ended:
        raise EngineError(f'{label}: the build was ended')
    if engine is None:
        raise EngineError(f'{label} cannot be built: {_line(logger.last)}')
    return memoryview(engine)


def _profile(builder: Any, network: Any, frames: int) -> Any:
    """Allow 1 to `frames` frames in every input; the largest window is the one to be fast at."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = list(tensor.shape)[1:]
        profile.set_shape(tensor.name, [1, *shape], [frames, *shape], [frames, *shape])
    return profile


def _logger(library: Any) -> Any:
    """Return a logger that keeps the last complaint instead of printing it."""

    class Logger(library.ILogger):
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.last = 'no reason was given'

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                self.last = message

    return Logger()


def _monitor(library: Any, progress: Callable[[str, int, int], bool]) -> Any:
    """Return what tells how far a build is, and ends it where it should not go on."""

    class Monitor(library.IProgressMonitor):
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self.ended = False
            self._totals: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._totals[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            try:
                go_on = progress(phase, step, self._totals.get(phase, step))
            except KeyboardInterrupt:  # must not cross the library's C++ frames
                go_on = False
            self.ended = self.ended or not go_on
            return go_on

        def phase_finish(self, phase: str) -> None:
            self._totals.pop(phase, None)

    return Monitor()


def _line(text: str) -> str:
    """Return a message's first line, without the library's code positions."""
    return first_line(EngineError(text))
