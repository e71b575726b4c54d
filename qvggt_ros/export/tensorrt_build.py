# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Build a bundle's three engines with TensorRT or TensorRT-RTX.

TensorRT builds for the GPU of the machine that it runs on. TensorRT-RTX builds for any GPU that is
named, also where there is none. Whole or not at all: the finished folder is renamed into place,
and where the GPU is here, only after the engines have passed the golden windows.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvggt_ros.engine.built import BUILT_FOLDER, engine_file, key_for, manifest_digest, utc_now
from qvggt_ros.engine.cuda_device import CudaDevice, compute_capability
from qvggt_ros.engine.half_types import HALF_TYPES, tolerances_in
from qvggt_ros.engine.manifest import GRAPHS, Manifest, bundle_path
from qvggt_ros.engine.onnx_file import check_graph_file
from qvggt_ros.engine.self_check import self_check
from qvggt_ros.engine.sidecar import BuiltGraph, EngineKey, Sidecar, write_sidecar
from qvggt_ros.engine.tensorrt_engine import TensorRTEngine
from qvggt_ros.engine.tensorrt_library import load_library
from qvggt_ros.errors import EngineError, UsageError
from qvggt_ros.export.tensorrt_compile import Compiler, capability
from qvggt_ros.export.tensorrt_graph import GraphTypes, rewrite_graph
from qvggt_ros.files import whole_file

# (graph, phase, steps done, steps in all) -> whether to go on
Progress = Callable[[str, str, int, int], bool]
SELF_CHECK = 'self-check'  # takes the place of a graph's name in what `Progress` is told


@dataclass(frozen=True)
class EngineBuild:
    """What is asked for.

    Attributes:
        engine: `tensorrt` or `tensorrt_rtx`.
        target: compute capability of another GPU, `sm_86`; None: this machine's.
        product_type: `float16` or `bfloat16`.
        attention: see `built.ATTENTIONS`; None: what the library's version fuses.
        workspace_mb: most memory that the builder may try kernels with; None: all.
        timing_cache: file that keeps what was learned about this GPU's kernels; a second build
            is faster. None: nothing is kept.

    """

    engine: str
    target: str | None = None
    product_type: str = 'float16'
    attention: str | None = None
    workspace_mb: int | None = None
    timing_cache: Path | None = None


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
        EngineError: the library is missing, refuses a graph, or the build was ended; or the GPU is
            here and the engines compute other numbers. Nothing is left behind.
        KeyboardInterrupt: somebody pressed Ctrl-C; nothing is left behind.

    """
    library = load_library(build.engine)
    key = _key(library, manifest, build)
    compiler = Compiler(library, key, build.workspace_mb, _read_timings(build.timing_cache))
    folder = Path(bundle) / BUILT_FOLDER / key.name
    try:
        folder.parent.mkdir(exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix='.building.', dir=folder.parent))
    except OSError as error:
        raise EngineError(f'{folder}: cannot be written: {error.strerror}') from error
    try:
        graphs = {
            name: _build_graph(compiler, bundle, manifest, name, key, work, progress)
            for name in GRAPHS
        }
        errors = _check_here(library, bundle, manifest, key, work, progress)
        sidecar = Sidecar(key, manifest_digest(manifest), graphs, utc_now(), errors)
        write_sidecar(work, sidecar)
        _take_place(work, folder)
        _write_timings(build.timing_cache, compiler.timings)
    except OSError as error:
        raise EngineError(f'{folder}: cannot be written: {error.strerror}') from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder, sidecar


def _key(library: Any, manifest: Manifest, build: EngineBuild) -> EngineKey:
    if build.product_type not in HALF_TYPES:
        raise UsageError(f'--type {build.product_type}: must be one of {", ".join(HALF_TYPES)}')
    target = _target(library, build)
    if build.timing_cache is not None and build.engine != 'tensorrt':
        raise UsageError(f'--timing-cache: {build.engine} times no kernels')
    version = str(library.__version__)
    return key_for(manifest, build.engine, version, target, build.product_type, build.attention)


def _target(library: Any, build: EngineBuild) -> str:
    if build.engine != 'tensorrt_rtx':
        if build.target is not None:
            raise UsageError(f'--target: {build.engine} builds for the GPU of this machine only')
        return compute_capability()
    try:
        target = build.target or compute_capability()
    except EngineError as error:
        raise EngineError(f'{error}; name a GPU with --target sm_86') from error
    if capability(library, target) is None:
        known = [name for name in dir(library.ComputeCapability) if name.startswith('SM')]
        raise UsageError(
            f'--target {target}: {build.engine} {library.__version__} knows '
            f'{", ".join(name.replace("SM", "sm_") for name in known)}'
        )
    return target


def _build_graph(
    compiler: Compiler,
    bundle: Path,
    manifest: Manifest,
    name: str,
    key: EngineKey,
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
    label = f'{key.engine} {key.engine_version}: {name} graph of {bundle}'
    engine = compiler.compile(rewritten, label, lambda *step: progress(name, *step))
    (work / engine_file(name)).write_bytes(engine)
    for path in work.glob(f'{name}.onnx*'):
        path.unlink()
    seconds = time.monotonic() - begun
    return BuiltGraph(hashlib.sha256(engine).hexdigest(), info.sha256, round(seconds, 1))


def _check_here(
    library: Any,
    bundle: Path,
    manifest: Manifest,
    key: EngineKey,
    work: Path,
    progress: Progress,
) -> dict[str, float] | None:
    """Return the golden figures of new engines; None where their GPU is not here."""
    try:
        here = compute_capability() == key.target
    except EngineError:
        here = False
    if not here:
        return None
    progress(SELF_CHECK, 'golden windows', 0, 1)
    contents = ((name, (work / engine_file(name)).read_bytes()) for name in GRAPHS)
    engine = TensorRTEngine(CudaDevice(), library, manifest, key, contents)
    allowed = tolerances_in(key.product_type, manifest.golden)
    return self_check(engine, Path(bundle), key.name, allowed)


def _take_place(work: Path, folder: Path) -> None:
    """Put finished engines where older ones of the same key may be."""
    work.chmod(0o755)
    if folder.exists():
        shutil.rmtree(folder)
    work.rename(folder)


def _read_timings(path: Path | None) -> bytes:
    if path is None or not path.exists():
        return b''
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f'--timing-cache {path}: cannot be read: {error.strerror}') from error


def _write_timings(path: Path | None, timings: bytes) -> None:
    if path is not None:
        with whole_file(path) as file:
            file.write_bytes(timings)
