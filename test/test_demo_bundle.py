# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The committed demo: a trained model, and the engine that is made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qvggt_ros.engine import open_bundle, read_manifest
from qvggt_ros.engine.manifest import file_digest
from qvggt_ros.engine.self_check import read_golden
from qvggt_ros.evaluation.accuracy import engine_predictor, synthetic_windows, torch_predictor
from qvggt_ros.evaluation.drift import evaluate_with_drift, reference_run
from qvggt_ros.export.build_command import load_source, presets
from qvggt_ros.export.quantised_build import (
    QuantisedBuild,
    calibration_windows,
    quantised_network,
)
from qvggt_ros.quantization.layers import quantised_layers
from qvggt_ros.quantization.nfds import NfdsConfig
from qvggt_ros.vggt import VGGT

DEMO = Path(__file__).parent.parent / 'engines' / 'demo'
MODEL = DEMO / 'model.safetensors'
MIB = 1 << 20


def test_model_and_bundle_are_small_and_belong_together() -> None:
    manifest = read_manifest(DEMO)
    files = [graph.file for graph in manifest.graphs.values()]
    files += [manifest.golden.file, 'manifest.json']
    assert MODEL.stat().st_size <= 16 * MIB
    assert sum((DEMO / file).stat().st_size for file in files) <= 16 * MIB
    assert manifest.checkpoint_sha256 == file_digest(MODEL)
    assert (manifest.precision, manifest.method) == ('w8a8', 'dsfq')
    assert (DEMO / 'MODEL_CARD.md').is_file()


def test_the_committed_engine_passes_its_self_check_here() -> None:
    engine = open_bundle(DEMO)
    assert engine.manifest.golden.errors['pose_enc'] < 0.1
    assert len(read_golden(DEMO, engine.manifest)['images']) >= 2


@pytest.mark.slow
def test_the_committed_engine_finds_its_way_in_rooms_it_has_not_seen() -> None:
    model, _ = load_source('demo', presets()['demo'], str(MODEL), 0)
    config = model.config
    windows = synthetic_windows(20_000, 60, 4, config.pretrain_width, config.pretrain_height)
    reference = reference_run(torch_predictor(model), windows)
    figures = evaluate_with_drift(engine_predictor(open_bundle(DEMO)), reference)
    # An untrained network, or one that says that nothing moves, has 14 and 0.4.
    assert reference.accuracy['auc30'] > 40 and reference.accuracy['absrel'] < 0.22
    assert figures['auc30'] > reference.accuracy['auc30'] - 2
    assert figures['drift_rot_deg_median'] < 0.3
    assert figures['drift_depth_rel_median'] < 0.02


def integers_of(folder: Path) -> dict[str, np.ndarray]:
    """Return the 8-bit weights of a bundle's graphs by the name of their layer, [out, inputs]."""
    found = {}
    for graph in ('encoder', 'window', 'depth'):
        for tensor in onnx.load(folder / f'{graph}.onnx').graph.initializer:
            if tensor.name.endswith('.weight_int8'):
                array = numpy_helper.to_array(tensor)
                name = tensor.name.removesuffix('.weight_int8')
                name = name.replace('encoder.', 'aggregator.patch_embed.', 1)
                found[name] = array.T if array.ndim == 2 else array
    return found


@pytest.mark.slow
def test_the_committed_engine_is_what_the_builder_makes_of_the_model() -> None:
    manifest = read_manifest(DEMO)
    assert manifest.calibration is not None
    model, source = load_source('demo', presets()['demo'], str(MODEL), 0)
    size = (manifest.image_height, manifest.image_width)
    build = QuantisedBuild(
        'w8a8',
        'dsfq',
        manifest.calibration.source,
        manifest.window_frames,
        size,
        NfdsConfig(seed=manifest.calibration.seed, samples=manifest.calibration.windows),
    )
    quiet = lambda what, done, total: None  # noqa: E731
    chosen, _ = calibration_windows(model, build, quiet)
    _, _, found = quantised_network(model, source, build, chosen, quiet)
    committed = integers_of(DEMO)
    assert_same_layers(found.model, committed)
    # Another processor's floats may prefer another window or factor; the integers that most
    # weights become do not change with that.
    same = [
        (
            layer.integers.flatten(1).numpy() == committed[name].reshape(len(layer.integers), -1)
        ).mean()
        for name, layer in quantised_layers(found.model)
        if not layer.transposed
    ]
    expected = 0.999 if chosen.digest == manifest.calibration.sha256 else 0.5
    assert np.mean(same) > expected


def assert_same_layers(model: VGGT, committed: dict[str, np.ndarray]) -> None:
    assert {name for name, _ in quantised_layers(model)} == set(committed)
