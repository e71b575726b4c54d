# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Write a bundle: the three graphs, golden windows and the manifest; whole or not at all."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from qvggt_ros.engine import open_bundle
from qvggt_ros.engine.manifest import (
    GOLDEN_FIGURES,
    MANIFEST_FILE,
    MEAN_SUFFIX,
    SCHEMA_VERSION,
    CalibrationInfo,
    GoldenInfo,
    GraphInfo,
    LayerInfo,
    Manifest,
    file_digest,
    write_manifest,
)
from qvggt_ros.engine.self_check import golden_errors, read_golden, self_check
from qvggt_ros.errors import BundleError, UsageError
from qvggt_ros.export.golden import GoldenArrays, Windows, check_windows, golden_arrays
from qvggt_ros.export.onnx_export import GraphSpec, export_graph, graph_specs
from qvggt_ros.vggt.model import VGGT

GOLDEN_FILE = 'golden.npz'
# A trained model's weights may live in the bundle's folder; they outlive a new build.
KEPT_FILES = ('model.safetensors', 'MODEL_CARD.md', 'training.png')
# Largest allowed errors of an engine, by golden figure; another CPU's kernels add up in another
# order, wrong ones are off by far more.
FLOAT_TOLERANCES = {
    figure: 5e-4 if figure.endswith(MEAN_SUFFIX) else 1e-3 for figure in GOLDEN_FIGURES
}
RECORDED_TOOLS = ('torch', 'onnx', 'onnxruntime', 'onnxscript', 'numpy')

# A quantised engine rounds a number that lies on an edge to the other side now and then, and every
# such step moves others: on another machine the error against the float network is another one,
# of the same size. Noise of 1e-6 on the demo's images makes the largest error up to 2.2 times, the
# mean over the few numbers of the poses up to 1.7 times, over those of the depths 1.2 times.
QUANTISED_MARGINS = dict.fromkeys(GOLDEN_FIGURES, 3.0) | {
    'depth_mean': 2.0,
    'depth_conf_mean': 2.0,
}

Progress = Callable[[str], None]


@dataclass(frozen=True)
class BundleSource:
    """Where a bundle comes from, for its manifest.

    Attributes:
        model: the network's name.
        checkpoint: where its weights came from, for people.
        checkpoint_sha256: digest of that file or of the weights.

    """

    model: str
    checkpoint: str
    checkpoint_sha256: str


@dataclass(frozen=True)
class QuantisedSource:
    """How a network that is exported was quantised.

    Attributes:
        precision, method: their names.
        layers, calibration: as the manifest holds them.

    """

    precision: str
    method: str
    layers: tuple[LayerInfo, ...]
    calibration: CalibrationInfo


def write_bundle(
    model: VGGT,
    out_dir: Path,
    source: BundleSource,
    golden: Windows | GoldenArrays,
    attention: str = 'fused',
    progress: Progress = lambda step: None,
    quantised: QuantisedSource | None = None,
) -> Manifest:
    """Export a network as a bundle, let ONNX Runtime prove it, and put it in place.

    Args:
        model: in evaluation mode, float32, on the CPU; with the layers that engines run
            (`engine_layers.with_engine_layers`) where it is quantised.
        out_dir: the bundle's folder; its name is the bundle's. A bundle already there is
            replaced; a folder of anything else is refused.
        source: what the manifest says about the weights.
        golden: images [n, S, H, W, 3] RGB that the model is run on, or such images with the
            answers of the float network that a quantised one stands for (`golden_arrays`); they
            decide window size and image size.
        attention: spelling, see `onnx_export.SPELLINGS`.
        progress: told about each step before it begins.
        quantised: how `model` was quantised; None for a float network.

    Raises:
        UsageError: the folder or the images cannot be used; EngineError, BundleError: the
            graphs do not compute what the network computes. Nothing is left behind then.

    """
    out_dir = Path(out_dir).absolute()
    _check_target(out_dir)
    images = cast(Windows, golden['images']) if isinstance(golden, dict) else golden
    frames, size = images.shape[1], images.shape[2:4]
    check_windows(images, frames, size)
    work = _work_folder(out_dir)
    try:
        graphs = {
            spec.name: _export(spec, work, attention, progress)
            for spec in graph_specs(model, size)
        }
        progress('golden windows')
        arrays = golden if isinstance(golden, dict) else golden_arrays(model, golden)
        golden_info = _write_golden(work, arrays)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name=out_dir.name,
            model=source.model,
            model_config=model.config.to_dict(),
            checkpoint=source.checkpoint,
            checkpoint_sha256=source.checkpoint_sha256,
            precision=quantised.precision if quantised else 'fp32',
            method=quantised.method if quantised else 'none',
            attention=attention,
            window_frames=frames,
            image_width=size[1],
            image_height=size[0],
            patch_size=model.config.patch_size,
            graphs=graphs,
            golden=golden_info,
            layers=quantised.layers if quantised else (),
            calibration=quantised.calibration if quantised else None,
            tool_versions=tool_versions(),
        )
        progress('self-check with ONNX Runtime')
        manifest = _proven(work, manifest)
        _put_in_place(work, out_dir)
    except OSError as error:
        raise BundleError(f'{out_dir}: cannot be written: {error}') from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def tool_versions() -> dict[str, str]:
    """Return the versions of what made the bundle."""
    versions = {name: importlib.metadata.version(name) for name in RECORDED_TOOLS}
    return {'python': platform.python_version(), **versions}


def _export(spec: GraphSpec, work: Path, attention: str, progress: Progress) -> GraphInfo:
    """Write one graph and describe it."""
    progress(f'{spec.name} graph')
    path = work / f'{spec.name}.onnx'
    data = export_graph(spec, path, attention)
    return GraphInfo(
        file=path.name,
        sha256=file_digest(path),
        inputs=spec.inputs,
        outputs=spec.outputs,
        data_file=None if data is None else data.name,
        data_sha256=None if data is None else file_digest(data),
    )


def _write_golden(work: Path, arrays: dict[str, NDArray[np.generic]]) -> GoldenInfo:
    path = work / GOLDEN_FILE
    np.savez_compressed(path, allow_pickle=False, **arrays)
    return GoldenInfo(
        file=path.name,
        sha256=file_digest(path),
        tolerances=dict(FLOAT_TOLERANCES),
        errors=dict.fromkeys(GOLDEN_FIGURES, 0.0),
    )


def _proven(work: Path, manifest: Manifest) -> Manifest:
    """Run the bundle's self-check and return the manifest with the errors that it measured."""
    write_manifest(work, manifest)
    engine = open_bundle(work, self_check=False)
    if manifest.calibration is None:
        errors = self_check(engine, work, f'ONNX Runtime {onnxruntime.__version__}')
        tolerances = manifest.golden.tolerances
    else:
        errors = golden_errors(engine, read_golden(work, manifest))
        tolerances = {
            figure: FLOAT_TOLERANCES[figure] + QUANTISED_MARGINS[figure] * error
            for figure, error in errors.items()
        }
    golden = dataclasses.replace(manifest.golden, errors=errors, tolerances=tolerances)
    manifest = dataclasses.replace(manifest, golden=golden)
    write_manifest(work, manifest)
    return manifest


def _check_target(out_dir: Path) -> None:
    """Refuse to replace anything but a bundle (or a folder that only holds a trained model)."""
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise UsageError(f'{out_dir}: is a file; give a folder for the bundle')
    names = {item.name for item in out_dir.iterdir()}
    if MANIFEST_FILE not in names and names - set(KEPT_FILES):
        raise UsageError(f'{out_dir}: holds other files than a bundle; give another folder')


def _work_folder(out_dir: Path) -> Path:
    """Make an empty folder beside the bundle, so that the finished one can be renamed."""
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f'.{out_dir.name}.', dir=out_dir.parent))
        work.chmod(0o755)
    except OSError as error:
        raise BundleError(f'{out_dir}: cannot be written: {error}') from error
    return work


def _put_in_place(work: Path, out_dir: Path) -> None:
    """Swap the finished folder for the one that was there, keeping the trained model."""
    for name in KEPT_FILES:
        if (out_dir / name).is_file():
            shutil.copy2(out_dir / name, work / name)
    if not out_dir.exists():
        work.rename(out_dir)
        return
    old = work.with_name(f'{work.name}.old')
    out_dir.rename(old)
    try:
        work.rename(out_dir)
    except OSError:
        old.rename(out_dir)
        raise
    shutil.rmtree(old, ignore_errors=True)
