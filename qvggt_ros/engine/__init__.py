# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Open a bundle and run it. Online: numpy and one runtime, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qvggt_ros.engine.interface import Engine, WindowOutput
from qvggt_ros.engine.manifest import GraphInfo, Manifest, read_manifest
from qvggt_ros.errors import EngineError

ENGINES = ('onnxruntime', 'tensorrt', 'tensorrt_rtx')

__all__ = ['ENGINES', 'Engine', 'GraphInfo', 'Manifest', 'WindowOutput', 'open_bundle']


def open_bundle(
    folder: Path | str, engine: str = 'onnxruntime', threads: int = 0, self_check: bool = True
) -> Engine:
    """Load a bundle into an engine and let it prove itself on the golden windows.

    Args:
        folder: the bundle's folder.
        engine: one of `ENGINES`.
        threads: CPU threads; 0 leaves the number to the runtime.
        self_check: run the golden windows first (twice a window's time and more).

    Raises:
        BundleError: the bundle's files are not what they should be.
        EngineError: the engine is unknown or missing, or computes other numbers.

    """
    folder = Path(folder)
    if engine not in ENGINES:
        raise EngineError(f'engine {engine!r}: must be one of {", ".join(ENGINES)}')
    manifest = read_manifest(folder)
    if engine == 'onnxruntime':
        opened, label, tolerances = _open_onnxruntime(folder, manifest, threads)
    else:
        opened, label, tolerances = _open_built(folder, manifest, engine)
    if self_check:
        from qvggt_ros.engine.self_check import self_check as run_self_check

        run_self_check(opened, folder, label, tolerances)
    return opened


# Runtimes are imported late: a manifest can be read where none is installed.
_Opened = tuple[Engine, str, Mapping[str, float]]


def _open_onnxruntime(folder: Path, manifest: Manifest, threads: int) -> _Opened:
    try:
        import onnxruntime

        from qvggt_ros.engine.onnxruntime_engine import OnnxRuntimeEngine
    except ImportError as error:
        raise EngineError(
            f"engine 'onnxruntime': {error}; install it with: pip install onnxruntime"
        ) from error
    opened = OnnxRuntimeEngine(folder, manifest, threads)
    return opened, f'ONNX Runtime {onnxruntime.__version__}', manifest.golden.tolerances


def _open_built(folder: Path, manifest: Manifest, engine: str) -> _Opened:
    from qvggt_ros.engine.half_types import tolerances_in
    from qvggt_ros.engine.tensorrt_engine import open_built

    opened = open_built(folder, manifest, engine)
    key = opened.key
    label = f'{key.engine} {key.engine_version} in {key.product_type}'
    return opened, label, tolerances_in(key.product_type, manifest.golden)
