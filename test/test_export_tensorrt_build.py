# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Real engines, built by TensorRT-RTX for a GPU that is not here; and what cannot be built."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from bundle_forgery import move_weights_out, resign, set_external
from fake_gpu import FakeCuda, FakeTensorRT
from half_engine import inputs_of, relative_errors, run
from small_networks import small_bundle

from qvggt_ros.cli import main
from qvggt_ros.engine import tensorrt_library
from qvggt_ros.engine.built import BUILT_FOLDER, engine_file, read_built
from qvggt_ros.engine.cuda_device import RUNTIME_MODULE, CudaDevice
from qvggt_ros.engine.manifest import GRAPHS, read_manifest
from qvggt_ros.engine.tensorrt_engine import TensorRTEngine
from qvggt_ros.errors import BundleError, EngineError, UsageError
from qvggt_ros.export import tensorrt_build
from qvggt_ros.export.tensorrt_build import EngineBuild, build_engines
from qvggt_ros.export.tensorrt_compile import Compiler
from qvggt_ros.export.tensorrt_graph import GraphTypes, rewrite_graph

DEMO = Path(__file__).parent.parent / 'engines' / 'demo'
RTX = EngineBuild('tensorrt_rtx', 'sm_86')


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return shutil.copytree(small_bundle(), tmp_path / 'small')


@pytest.fixture
def library() -> object:
    return pytest.importorskip('tensorrt_rtx', reason='TensorRT-RTX has no wheel for this machine')


@pytest.mark.slow
@pytest.mark.usefixtures('library')
def test_the_demos_int8_engines_are_built_for_another_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = shutil.copytree(DEMO, tmp_path / 'demo')
    words = ['--engine', 'tensorrt_rtx', '--target', 'sm_86', '--json']
    assert main(['build-engine', str(bundle), *words]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report['key']['precision'] == 'w8a8' and report['key']['attention'] == 'operator'
    folder = Path(report['folder'])
    manifest = read_manifest(bundle)
    key = tensorrt_build._key(tensorrt_library.load_library('tensorrt_rtx'), manifest, RTX)
    sidecar, engines = read_built(bundle, manifest, key)
    assert all(len(engine) > 100_000 for _, engine in engines)
    assert sidecar.self_check is None or len(sidecar.self_check) == 6
    # Nothing is left beside them, and a bundle with engines in it is still that bundle.
    names = {engine_file(name) for name in GRAPHS} | {'engines.json'}
    assert {path.name for path in folder.iterdir()} == names
    assert [path.name for path in (bundle / BUILT_FOLDER).iterdir()] == [key.name]


@pytest.mark.slow
@pytest.mark.usefixtures('library')
def test_int4_engines_are_built_together_with_their_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ['build', '--checkpoint', str(DEMO / 'model.safetensors'), '--precision', 'w4a16']
    words += ['--method', 'rtn', '--candidates', '4', '--samples', '2', '--fast']
    words += ['--engine', 'tensorrt_rtx', '--target', 'sm_89', '--type', 'bfloat16']
    assert main([*words, '--out', str(tmp_path / 'int4')]) == 0
    assert 'sm_89-x86_64-w4a16-bfloat16-operator-s4-168x126' in capsys.readouterr().out
    # Without zero points nothing moves: what TensorRT is given is the same function.
    feeds = inputs_of(tmp_path / 'int4')
    for name in GRAPHS:
        graph = tmp_path / 'int4' / f'{name}.onnx'
        rewrite_graph(graph, tmp_path / 'new.onnx', GraphTypes('float32'))
        found, wanted = (run(path, feeds[name]) for path in (tmp_path / 'new.onnx', graph))
        assert max(relative_errors(found, wanted)) < 2e-6
    (folder,) = (tmp_path / 'int4' / BUILT_FOLDER).iterdir()
    sizes = {name: (folder / engine_file(name)).stat().st_size for name in GRAPHS}
    assert min(sizes.values()) > 100_000


@pytest.mark.slow
def test_attention_that_does_not_fuse_is_not_built(library: object, tmp_path: Path) -> None:
    """In float32 there is no fused kernel: that half types are built shows that theirs is used."""
    rewrite_graph(DEMO / 'encoder.onnx', tmp_path / 'encoder.onnx', GraphTypes('float32'))
    key = tensorrt_build._key(library, read_manifest(DEMO), RTX)
    with pytest.raises(EngineError, match=r'cannot be built: .*not supported by a dedicated'):
        Compiler(library, key, None, b'').compile(
            tmp_path / 'encoder.onnx', 'TensorRT-RTX: encoder graph', lambda *step: True
        )


@pytest.mark.slow
@pytest.mark.usefixtures('library')
@pytest.mark.parametrize('reason', [None, KeyboardInterrupt, RuntimeError])
def test_an_ended_build_leaves_nothing(bundle: Path, reason: type[BaseException] | None) -> None:
    def stop(graph: str, phase: str, done: int, total: int) -> bool:
        if phase == 'rewriting the graph':
            return True
        if reason is not None:
            raise reason
        return False

    with pytest.raises(reason or EngineError, match=None if reason else 'the build was ended'):
        build_engines(bundle, read_manifest(bundle), RTX, stop)
    assert not list((bundle / BUILT_FOLDER).iterdir())


# Runs the command and, once the compiler is at work, presses Ctrl-C on it.
INTERRUPTED = """
import os, signal, sys
from qvggt_ros.cli import main
from qvggt_ros.export import tensorrt_compile

make = tensorrt_compile.make_monitor
def pressing(library, steps):
    def step(phase, done, total):
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        return steps(phase, done, total)
    return make(library, step)
tensorrt_compile.make_monitor = pressing
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.usefixtures('library')
@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM'])
def test_ctrl_c_ends_the_command_cleanly(bundle: Path, name: str) -> None:
    words = ['build-engine', str(bundle), '--engine', 'tensorrt_rtx', '--target', 'sm_86']
    command = [sys.executable, '-c', INTERRUPTED, name, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1] == 'qvggt build-engine: interrupted'
    assert 'Traceback' not in done.stderr
    assert not list((bundle / BUILT_FOLDER).iterdir())


@pytest.mark.usefixtures('library', 'quick_compiler')
def test_engines_are_replaced(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    folder, first = build_engines(bundle, manifest, RTX)
    (folder / 'left_over').touch()
    again, second = build_engines(bundle, manifest, RTX)
    assert again == folder and second.built_at >= first.built_at
    assert not (folder / 'left_over').exists()
    assert set(dict(read_built(bundle, manifest, second.key)[1])) == set(GRAPHS)


def test_a_build_learns_from_the_one_before(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_compiler: list[bytes]
) -> None:
    """TensorRT itself is not here; what is kept between builds, and where, is ours."""
    monkeypatch.setitem(sys.modules, 'tensorrt', FakeTensorRT(FakeCuda(), 3))
    monkeypatch.setattr(tensorrt_build, 'compute_capability', lambda: 'sm_87')
    monkeypatch.setattr(tensorrt_build, '_check_here', lambda *rest: None)
    build = EngineBuild('tensorrt', timing_cache=tmp_path / 'timings')
    build_engines(bundle, read_manifest(bundle), build)
    build_engines(bundle, read_manifest(bundle), build)
    assert quick_compiler == [b'', b'+++']


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Compile nothing; return the timings that compilers were given."""
    given: list[bytes] = []

    class Quick:
        def __init__(self, library: object, key: object, memory: object, timings: bytes) -> None:
            given.append(timings)
            self.timings = timings

        def compile(self, graph: Path, label: str, steps: object) -> memoryview:
            assert graph.is_file()
            self.timings += b'+'
            return memoryview(label.encode())

    monkeypatch.setattr(tensorrt_build, 'Compiler', Quick)
    return given


@pytest.mark.usefixtures('library')
@pytest.mark.parametrize(
    ('build', 'words'),
    [
        (EngineBuild('tensorrt_rtx', 'sm_12'), 'knows .*sm_86'),
        (EngineBuild('tensorrt_rtx', 'ampere'), 'knows .*sm_86'),
        (EngineBuild('tensorrt_rtx', 'sm_86', 'int8'), '--type int8'),
        (
            EngineBuild('tensorrt_rtx', 'sm_86', timing_cache=Path('timings')),
            '--timing-cache: tensorrt_rtx times no kernels',
        ),
        (EngineBuild('onnxruntime', 'sm_86'), 'must be one of tensorrt, tensorrt_rtx'),
    ],
)
def test_what_is_not_known_is_refused(bundle: Path, build: EngineBuild, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build_engines(bundle, read_manifest(bundle), build)
    assert not (bundle / BUILT_FOLDER).exists()


def test_a_missing_library_is_one_line(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> object:
        if name.startswith('tensorrt'):
            raise ImportError(f'No module named {name!r}')
        return import_module(name)

    import_module = importlib.import_module
    monkeypatch.setattr(tensorrt_library.importlib, 'import_module', absent)
    assert main(['build-engine', str(bundle), '--engine', 'tensorrt']) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and 'it comes with JetPack' in lines[0]
    assert main(['build', '--engine', 'tensorrt_rtx', '--out', 'nowhere']) == 2
    assert 'pip install tensorrt-rtx-cu13' in capsys.readouterr().err


@pytest.mark.usefixtures('library', 'quick_compiler')
def test_weights_beside_a_graph_are_found_and_those_elsewhere_are_not(bundle: Path) -> None:
    move_weights_out(bundle)
    folder, _ = build_engines(bundle, read_manifest(bundle), RTX)
    assert {path.suffix for path in folder.iterdir()} == {'.engine', '.json'}
    shutil.rmtree(folder)
    set_external(bundle / 'encoder.onnx', 'location', '../small/encoder.onnx.data')
    resign(bundle, 'encoder.onnx')
    with pytest.raises(BundleError, match=r'encoder\.onnx: '):
        build_engines(bundle, read_manifest(bundle), RTX)
    assert not list((bundle / BUILT_FOLDER).iterdir())


def test_tensorrt_builds_for_the_gpu_that_is_here(bundle: Path) -> None:
    class Library:
        __version__ = '10.7.0'

    with pytest.raises(UsageError, match='builds for the GPU of this machine only'):
        tensorrt_build._key(Library, read_manifest(bundle), EngineBuild('tensorrt', 'sm_86'))


@pytest.mark.usefixtures('library')
def test_where_no_gpu_is_the_target_must_be_named(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, RUNTIME_MODULE, None)
    assert main(['build-engine', str(bundle), '--engine', 'tensorrt_rtx']) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].endswith('name a GPU with --target sm_86')


@pytest.mark.usefixtures('library', 'quick_compiler')
@pytest.mark.parametrize('sound', [True, False])
def test_where_the_gpu_is_here_engines_are_checked_at_once(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, sound: bool
) -> None:
    """By a stand-in for the GPU, which runs the bundle's graphs."""
    manifest, cuda = read_manifest(bundle), FakeCuda(target=(8, 6))
    stand_in = FakeTensorRT(cuda, manifest.window_frames)
    graphs = [(name, str(bundle / f'{name}.onnx').encode()) for name in GRAPHS]
    if not sound:
        shutil.copytree(bundle, bundle.parent / 'other')
        break_weights(bundle.parent / 'other' / 'depth.onnx')
        graphs[2] = ('depth', str(bundle.parent / 'other' / 'depth.onnx').encode())

    def engine(device: object, library: object, *rest: Any) -> TensorRTEngine:
        return TensorRTEngine(CudaDevice(cuda), stand_in, manifest, rest[1], graphs)

    monkeypatch.setitem(sys.modules, RUNTIME_MODULE, cuda)
    monkeypatch.setattr(tensorrt_build, 'TensorRTEngine', engine)
    if sound:
        _, sidecar = build_engines(bundle, manifest, RTX)
        assert sidecar.self_check is not None and max(sidecar.self_check.values()) < 1e-4
    else:
        with pytest.raises(EngineError, match=r'self-check of tensorrt_rtx-.*: depth graph'):
            build_engines(bundle, manifest, RTX)
        assert not list((bundle / BUILT_FOLDER).iterdir())


def break_weights(path: Path) -> None:
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.ndim == 4:
            tensor.CopyFrom(onnx.numpy_helper.from_array(0.9 * array, tensor.name))
    onnx.save(model, path)
