# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Bundles are written whole or not at all, and say truly what they hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import SMALL, SMALL_FRAMES, SMALL_SIZE, lively, small_bundle

from qvggt_ros.engine.manifest import file_digest, read_manifest
from qvggt_ros.engine.self_check import read_golden, to_network_input
from qvggt_ros.errors import BundleError, EngineError, UsageError
from qvggt_ros.export import bundle, onnx_export
from qvggt_ros.export.bundle import BundleSource, write_bundle
from qvggt_ros.export.golden import noise_windows
from qvggt_ros.vggt import VGGTConfig
from qvggt_ros.vggt.checkpoint import weights_digest

SOURCE = BundleSource('small', 'random', 64 * '0')
WINDOWS = noise_windows(1, SMALL_FRAMES, SMALL_SIZE, seed=0)


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def test_a_bundle_holds_five_files_and_nothing_lies_beside_it() -> None:
    folder = small_bundle()
    assert names(folder) == [
        'depth.onnx', 'encoder.onnx', 'golden.npz', 'manifest.json', 'window.onnx',
    ]  # fmt: skip
    assert names(folder.parent) == ['small']


def test_the_manifest_says_what_was_built() -> None:
    manifest = read_manifest(small_bundle())
    assert VGGTConfig.from_dict(manifest.model_config) == SMALL
    assert (manifest.image_height, manifest.image_width) == SMALL_SIZE
    assert (manifest.name, manifest.model, manifest.patches) == ('small', 'small', 20)
    assert (manifest.window_frames, manifest.precision, manifest.method) == (3, 'fp32', 'none')
    assert manifest.checkpoint_sha256 == weights_digest(lively(SMALL))
    assert manifest.graphs['window'].inputs[0].shape == ('frames', 20, 32)
    assert manifest.graphs['window'].outputs[0].name == 'pose_enc'
    assert torch.__version__.startswith(manifest.tool_versions['torch'])  # +cpu, +cu130
    assert 0 < max(manifest.golden.errors.values()) < 1e-4


def test_golden_outputs_are_the_float_networks() -> None:
    folder = small_bundle()
    golden = read_golden(folder, read_manifest(folder))
    assert golden['images'].shape == (2, SMALL_FRAMES, *SMALL_SIZE, 3)
    images = torch.from_numpy(to_network_input(golden['images'][1]))[None]
    with torch.inference_mode():
        out = lively(SMALL)(images)
    assert np.abs(golden['pose_enc'][1] - out['pose_enc'][0].numpy()).max() < 1e-5
    assert np.abs(golden['depth'][1] - out['depth'][0, ..., 0].numpy()).max() < 1e-4


def break_graph(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let one exported graph lack its file's end, as a full disk would have it."""
    whole = onnx_export.export_graph

    def export(spec: onnx_export.GraphSpec, path: Path, attention: str) -> Path | None:
        if spec.name != name:
            shutil.copy(small_bundle() / path.name, path)
            return None
        data = whole(spec, path, attention)
        path.write_bytes(path.read_bytes()[:-100])
        return data

    monkeypatch.setattr(bundle, 'export_graph', export)


def copy_graphs(spec: onnx_export.GraphSpec, path: Path, attention: str) -> None:
    """Take the graphs of the bundle that is there already: export is slow."""
    shutil.copy(small_bundle() / path.name, path)


def test_a_graph_that_cannot_run_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_graph(monkeypatch, 'encoder')
    with pytest.raises(BundleError, match=r'encoder\.onnx'):
        write_bundle(lively(SMALL), tmp_path / 'new', SOURCE, WINDOWS)
    assert names(tmp_path) == []


def test_graphs_of_other_weights_are_found_out_and_the_old_bundle_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / 'old'
    shutil.copytree(small_bundle(), out)
    before = {name: file_digest(out / name) for name in names(out)}
    monkeypatch.setattr(bundle, 'export_graph', copy_graphs)
    with pytest.raises(EngineError, match='differs from the reference'):
        write_bundle(lively(SMALL, seed=5), out, SOURCE, WINDOWS)
    assert {name: file_digest(out / name) for name in names(out)} == before
    assert names(tmp_path) == ['old']


def test_a_bundle_is_replaced_and_a_trained_models_weights_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, 'export_graph', copy_graphs)
    out = tmp_path / 'demo'
    out.mkdir()
    (out / 'model.safetensors').write_bytes(b'weights')
    steps: list[str] = []
    write_bundle(lively(SMALL), out, SOURCE, WINDOWS, progress=steps.append)
    (out / 'built').mkdir()
    write_bundle(lively(SMALL), out, SOURCE, WINDOWS)
    assert names(tmp_path) == ['demo']
    assert (out / 'model.safetensors').read_bytes() == b'weights'
    assert not (out / 'built').exists()
    assert read_manifest(out).name == 'demo'
    assert len(steps) == 5


def test_a_folder_of_other_things_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / 'thesis.tex').write_text('years of work')
    with pytest.raises(UsageError, match='other files than a bundle'):
        write_bundle(lively(SMALL), tmp_path, SOURCE, WINDOWS)
    with pytest.raises(UsageError, match='is a file'):
        write_bundle(lively(SMALL), tmp_path / 'thesis.tex', SOURCE, WINDOWS)
    assert names(tmp_path) == ['thesis.tex']


@pytest.mark.parametrize(
    'windows',
    [WINDOWS.astype(np.float32), WINDOWS[:0], WINDOWS[..., :2]],
    ids=['floats', 'none', 'two channels'],
)
def test_golden_images_of_another_kind_are_refused(tmp_path: Path, windows: np.ndarray) -> None:
    with pytest.raises(UsageError, match='golden images'):
        write_bundle(lively(SMALL), tmp_path / 'new', SOURCE, windows)
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(BundleError, match='cannot be written') as caught:
        write_bundle(lively(SMALL), tmp_path / 'file' / 'new', SOURCE, WINDOWS)
    assert '\n' not in str(caught.value)


def test_noise_windows_are_seeded_and_drift() -> None:
    windows = noise_windows(2, 3, (28, 40), seed=4)
    assert np.array_equal(windows, noise_windows(2, 3, (28, 40), seed=4))
    assert not np.array_equal(windows[0], windows[1])
    assert np.array_equal(windows[0, 0, :, 2:], windows[0, 1, :, :-2])
