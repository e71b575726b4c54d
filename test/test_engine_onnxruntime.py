# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The engine gives the network's numbers, whatever the window, and refuses bad input."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import SMALL, SMALL_SIZE, lively, small_bundle

from qvggt_ros.engine import Engine, open_bundle, read_manifest
from qvggt_ros.engine.onnxruntime_engine import OnnxRuntimeEngine, open_graph
from qvggt_ros.errors import EngineError
from qvggt_ros.vggt import VGGT

LIMIT = 1e-4  # of each output's largest magnitude


@pytest.fixture(scope='module')
def engine() -> Engine:
    return open_bundle(small_bundle(), threads=1)


@pytest.fixture(scope='module')
def model() -> VGGT:
    return lively(SMALL)


def images_of(frames: int) -> np.ndarray:
    return np.random.default_rng(frames).random((frames, 3, *SMALL_SIZE), dtype=np.float32)


def assert_close(found: np.ndarray, wanted: torch.Tensor) -> None:
    assert found.dtype == np.float32 and found.shape == tuple(wanted.shape)
    assert np.abs(found - wanted.numpy()).max() < LIMIT * wanted.abs().max().item()


@pytest.mark.parametrize('frames', [1, 2, 3, 5])
def test_engine_equals_the_network(engine: Engine, model: VGGT, frames: int) -> None:
    images = images_of(frames)
    tokens = [engine.encode(images[[frame]])[0] for frame in range(frames)]
    window = engine.window(tokens)
    depth, conf = engine.depth(window, range(frames))
    with torch.inference_mode():
        whole = model(torch.from_numpy(images)[None])
    assert_close(window.pose_enc, whole['pose_enc'][0])
    assert_close(depth, whole['depth'][0, ..., 0])
    assert_close(conf, whole['depth_conf'][0])


def test_chosen_frames_come_in_the_asked_order(engine: Engine) -> None:
    window = engine.window(engine.encode(images_of(4)))
    depth, conf = engine.depth(window, range(4))
    some_depth, some_conf = engine.depth(window, [3, 1])
    assert np.allclose(some_depth, depth[[3, 1]], atol=1e-6)
    assert np.allclose(some_conf, conf[[3, 1]], atol=1e-6)
    none_depth, none_conf = engine.depth(window, [])
    assert none_depth.shape == none_conf.shape == (0, *SMALL_SIZE)


def test_handles_stay_valid_while_they_are_held(engine: Engine) -> None:
    images = images_of(2)
    tokens = engine.encode(images)
    first = engine.window(tokens).pose_enc.copy()
    for seed in range(3):
        engine.window(engine.encode(images_of(4 + seed)))
    assert np.array_equal(engine.window(tokens).pose_enc, first)


@pytest.mark.parametrize(
    ('images', 'complaint'),
    [
        (np.zeros((1, 3, 28, 35)), 'float32'),
        (np.zeros((1, 3, 35, 28), np.float32), r'\[1, 3, 35, 28\]'),
        (np.zeros((3, 28, 35), np.float32), r'\[n, 3, 28, 35\]'),
        (np.zeros((0, 3, 28, 35), np.float32), 'n >= 1'),
        ([[1.0]], 'list'),
    ],
)
def test_images_of_another_kind_are_refused(
    engine: Engine, images: np.ndarray, complaint: str
) -> None:
    with pytest.raises(EngineError, match=complaint):
        engine.encode(images)


def test_frames_that_are_not_there_are_refused(engine: Engine) -> None:
    with pytest.raises(EngineError, match='at least one frame'):
        engine.window([])
    with pytest.raises(EngineError, match='tokens'):
        engine.window([np.zeros((19, 32), np.float32)])
    window = engine.window(engine.encode(images_of(2)))
    for frame in (-1, 2):
        with pytest.raises(EngineError, match=f'frame {frame}'):
            engine.depth(window, [0, frame])


def test_not_a_number_passes_through_without_a_crash(engine: Engine) -> None:
    images = images_of(1)
    images[0, 0, 0, 0] = np.nan
    assert np.isnan(engine.window(engine.encode(images)).pose_enc).any()


class ShortSession:
    """A graph that returns fewer numbers than it says."""

    def run(self, names: None, feeds: dict[str, np.ndarray], options: object) -> list[np.ndarray]:
        return [np.zeros((len(feeds['tokens']), 8), np.float32), *4 * [np.zeros(0, np.float32)]]


def test_outputs_of_another_shape_than_the_manifests_are_refused() -> None:
    engine = OnnxRuntimeEngine(small_bundle(), read_manifest(small_bundle()), threads=1)
    tokens = engine.encode(images_of(2))
    engine._sessions['window'] = ShortSession()
    with pytest.raises(EngineError, match=r'pose_enc is \[2, 8\] for 2 frames, must be \[2, 9\]'):
        engine.window(tokens)


@pytest.mark.parametrize('name', [b'images', b'tokens', b'frames'])
def test_names_that_are_no_text_are_refused(tmp_path: Path, name: bytes) -> None:
    folder = Path(shutil.copytree(small_bundle(), tmp_path / 'bundle'))
    path = folder / 'encoder.onnx'
    path.write_bytes(path.read_bytes().replace(name, b'\xff' + name[1:]))
    with pytest.raises(EngineError, match=r'encoder\.onnx: a name of .* is no text'):
        OnnxRuntimeEngine(folder, read_manifest(folder, verify_files=False))


def test_a_refused_graph_leaves_nothing_on_the_screen(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Bytes that are no text in a name: the runtime's own wrapper prints before it gives up.
    content = (small_bundle() / 'encoder.onnx').read_bytes()
    for old, new in ((b'Gelu', b'G\xfflu'), (b'LayerNormalization', b'LayerNormalizatiox')):
        (tmp_path / 'encoder.onnx').write_bytes(content.replace(old, new))
        with pytest.raises(EngineError, match=r'encoder\.onnx'):
            open_graph(tmp_path / 'encoder.onnx')
    assert capfd.readouterr() == ('', '')


def test_unknown_engines_and_thread_counts_are_refused() -> None:
    with pytest.raises(EngineError, match="'tensorflow'"):
        open_bundle(small_bundle(), engine='tensorflow')
    with pytest.raises(EngineError, match='threads=-1'):
        open_bundle(small_bundle(), threads=-1)


def test_the_engine_needs_neither_torch_nor_onnx() -> None:
    code = (
        'import sys; from qvggt_ros.engine import open_bundle; '
        f'open_bundle({str(small_bundle())!r}); '
        'print(sorted({"torch", "onnx", "onnxscript", "scipy", "qvggt_ros.vggt"} '
        '& set(sys.modules)))'
    )
    shown = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == '[]'
