# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The engine's bookkeeping on a stand-in for a GPU, and the engine itself where there is one."""

from __future__ import annotations

import gc
import hashlib
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeContext, FakeCuda, FakeEngine, FakeTensorRT
from small_networks import SMALL_FRAMES, small_bundle

from qvggt_ros.engine import Engine, open_bundle, read_manifest
from qvggt_ros.engine.built import (
    BUILT_FOLDER,
    engine_file,
    key_for,
    manifest_digest,
    this_machine,
    utc_now,
)
from qvggt_ros.engine.cuda_device import RUNTIME_MODULE, CudaDevice, compute_capability
from qvggt_ros.engine.manifest import GRAPHS
from qvggt_ros.engine.onnxruntime_engine import OnnxRuntimeEngine
from qvggt_ros.engine.self_check import golden_errors, read_golden, to_network_input
from qvggt_ros.engine.sidecar import BuiltGraph, EngineKey, Sidecar, write_sidecar
from qvggt_ros.engine.tensorrt_engine import TensorRTEngine
from qvggt_ros.engine.tensorrt_runner import make_context
from qvggt_ros.errors import EngineError


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def library(cuda: FakeCuda) -> FakeTensorRT:
    return FakeTensorRT(cuda, SMALL_FRAMES)


@pytest.fixture
def engine(cuda: FakeCuda, library: FakeTensorRT) -> TensorRTEngine:
    return made(cuda, library)


@pytest.fixture(scope='module')
def reference() -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(small_bundle(), read_manifest(small_bundle()), threads=1)


def made(cuda: FakeCuda, library: FakeTensorRT) -> TensorRTEngine:
    manifest = read_manifest(small_bundle())
    key = key_for(manifest, 'tensorrt', '10.7.0', 'sm_87')
    return TensorRTEngine(CudaDevice(cuda), library, manifest, key, graph_files())


def graph_files() -> Iterator[tuple[str, bytes]]:
    """Give what the stand-in takes for engines."""
    for name in GRAPHS:
        yield name, str(small_bundle() / f'{name}.onnx').encode()


def images(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random((count, 3, 28, 35), dtype=np.float32)


def assert_same(found: np.ndarray, wanted: np.ndarray) -> None:
    """Hold that numbers are the same: other optimisations of the same graph add in other order."""
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_it_computes_what_the_graphs_compute(engine: TensorRTEngine) -> None:
    golden = read_golden(small_bundle(), engine.manifest)
    assert max(golden_errors(engine, golden).values()) < 1e-4


@pytest.mark.parametrize('frames', [[0, 1, 2], [2], [2, 0], [1, 2, 0, 1], [2, 2, 2, 1, 0, 0]])
def test_depth_is_that_of_the_chosen_frames(
    engine: TensorRTEngine, reference: Engine, frames: list[int]
) -> None:
    given = images(3)
    window, wanted = (e.window(e.encode(given)) for e in (engine, reference))
    for found, expected in zip(
        engine.depth(window, frames), reference.depth(wanted, frames), strict=True
    ):
        assert_same(found, expected)
    for found in engine.depth(window, []):
        assert found.shape == (0, 28, 35)


def test_many_frames_are_encoded_in_parts(engine: TensorRTEngine, reference: Engine) -> None:
    given = images(2 * SMALL_FRAMES + 1)
    found, wanted = engine.encode(given), reference.encode(given)
    for some in ([0, 1, 2], [6], [5, 3], [4, 4, 4]):
        window = engine.window([found[i] for i in some])
        assert_same(window.pose_enc, reference.window([wanted[i] for i in some]).pose_enc)


def test_windows_of_every_size_follow_one_another(
    engine: TensorRTEngine, reference: Engine, cuda: FakeCuda
) -> None:
    """With repetitions, so that recorded runs are replayed, dropped and recorded again."""
    for step, size in enumerate([3, 3, 3, 2, 2, 1, 3, 3, 2, 3, 3, 3]):
        given = images(size, seed=step)
        window, wanted = (e.window(e.encode(given)) for e in (engine, reference))
        assert_same(window.pose_enc, wanted.pose_enc)
        assert_same(engine.depth(window, range(size))[0], reference.depth(wanted, range(size))[0])
    assert cuda.calls.count('cudaGraphInstantiate') == 3 * 4


def test_where_recording_fails_it_goes_on_without(
    cuda: FakeCuda, library: FakeTensorRT, reference: Engine
) -> None:
    cuda.can_record = False
    engine = made(cuda, library)
    for step in range(4):
        given = images(3, seed=step)
        found = engine.window(engine.encode(given)).pose_enc
        assert_same(found, reference.window(reference.encode(given)).pose_enc)
    # Tried once for each graph that ran, and not again.
    assert cuda.calls.count('cudaStreamBeginCapture') == 2
    assert 'cudaGraphLaunch' not in cuda.calls


def test_tokens_keep_their_values_while_they_are_held(
    engine: TensorRTEngine, reference: Engine
) -> None:
    first, wanted = engine.encode(images(3, seed=1)), reference.encode(images(3, seed=1))
    for seed in range(5):
        engine.window(engine.encode(images(3, seed=10 + seed)))
    assert_same(engine.window(first).pose_enc, reference.window(wanted).pose_enc)


def test_memory_does_not_grow(engine: TensorRTEngine, cuda: FakeCuda) -> None:
    def window(seed: int) -> None:
        engine.depth(engine.window(engine.encode(images(3, seed))), [0, 1])

    window(0)
    used, reserved = cuda.used, cuda.calls.count('cudaMalloc')
    for seed in range(1, 6):
        window(seed)
    assert cuda.used == used and cuda.calls.count('cudaMalloc') == reserved


def test_all_memory_is_given_back(cuda: FakeCuda, library: FakeTensorRT) -> None:
    engine = made(cuda, library)
    tokens = engine.encode(images(3))
    del engine
    engine = made(cuda, library)
    tokens = engine.encode(images(2))
    assert len(tokens) == 2 and cuda.used > 0
    del engine, tokens
    library.loaded.clear()
    gc.collect()
    assert cuda.used == 0


def test_outputs_are_the_callers_own(engine: TensorRTEngine) -> None:
    window = engine.window(engine.encode(images(3)))
    depth, conf = engine.depth(window, [0, 1, 2])
    before = [window.pose_enc.copy(), depth.copy(), conf.copy()]
    other = engine.window(engine.encode(images(3, seed=9)))
    engine.depth(other, [0, 1, 2])
    for kept, was in zip([window.pose_enc, depth, conf], before, strict=True):
        assert np.array_equal(kept, was)


def test_taps_of_an_earlier_window_are_refused(engine: TensorRTEngine) -> None:
    tokens = engine.encode(images(3))
    earlier = engine.window(tokens)
    later = engine.window(tokens)
    with pytest.raises(EngineError, match='taps: of an earlier window'):
        engine.depth(earlier, [0])
    engine.depth(later, [0])


def test_another_engines_handles_are_refused(
    engine: TensorRTEngine, cuda: FakeCuda, library: FakeTensorRT
) -> None:
    other = made(cuda, library)
    with pytest.raises(EngineError, match='frame 0 was not encoded by this engine'):
        engine.window(other.encode(images(1)))
    with pytest.raises(EngineError, match='frame 0 was not encoded by this engine'):
        engine.window([np.zeros((24, 32), np.float32)])  # type: ignore[list-item]
    with pytest.raises(EngineError, match='taps: not of a window of this engine'):
        engine.depth(other.window(other.encode(images(1))), [0])


@pytest.mark.parametrize('count', [0, 4])
def test_windows_that_the_engines_were_not_built_for(engine: TensorRTEngine, count: int) -> None:
    (tokens,) = engine.encode(images(1))
    with pytest.raises(EngineError, match=f'a window of {count} frames; .* built for 1 to 3'):
        engine.window([tokens] * count)


def test_wrong_images_and_frames_are_refused(engine: TensorRTEngine) -> None:
    for wrong in (images(1)[:, :, :-1], images(1)[0], images(0), images(1).astype(int)):
        with pytest.raises(EngineError, match=r'images: (shape|must be a float32 array)'):
            engine.encode(wrong)
    with pytest.raises(EngineError, match='frame 1: the window has frames 0 to 0'):
        engine.depth(engine.window(engine.encode(images(1))), [1])


def test_another_thread_is_refused(engine: TensorRTEngine) -> None:
    tokens = engine.encode(images(1))
    window = engine.window(tokens)
    said: list[str] = []

    def elsewhere() -> None:
        for call in (
            lambda: engine.encode(images(1)),
            lambda: engine.window(tokens),
            lambda: engine.depth(window, [0]),
        ):
            with pytest.raises(EngineError) as caught:
                call()
            said.append(str(caught.value))

    thread = threading.Thread(target=elsewhere, name='executor')
    thread.start()
    thread.join()
    assert len(said) == 3 and all("used in thread 'executor'" in line for line in said)


@pytest.mark.parametrize('size', [35, -1, 36])
def test_an_output_of_another_size_never_reaches_its_memory(
    engine: TensorRTEngine, library: FakeTensorRT, size: int
) -> None:
    """A library may leave sizes open until a shape is given; they are compared then."""
    mode, shape = library.loaded[2].tensors['depth']
    window = engine.window(engine.encode(images(1)))
    library.loaded[2].tensors['depth'] = (mode, [*shape[:-1], size])
    if size == 35:
        engine.depth(window, [0])
        return
    with pytest.raises(EngineError, match=r'depth is \[1, 28, .*\] for 1 frames, must be \[1, 28'):
        engine.depth(window, [0])


def test_a_full_gpu_is_one_line(cuda: FakeCuda, library: FakeTensorRT) -> None:
    cuda.limit = 100_000
    with pytest.raises(EngineError, match=r'MB of GPU memory cannot be had: .*cudaMalloc'):
        made(cuda, library)
    gc.collect()
    library.loaded.clear()
    assert cuda.used == 0


def test_an_engine_that_fails_says_why(engine: TensorRTEngine, library: FakeTensorRT) -> None:
    library.loaded[0].works = False
    with pytest.raises(EngineError, match=r'tensorrt 10.7.0: encoder engine failed: '):
        engine.encode(images(1))


def test_engines_that_are_not_the_manifests(cuda: FakeCuda) -> None:
    device, manifest = CudaDevice(cuda), read_manifest(small_bundle())
    key = key_for(manifest, 'tensorrt', '10.7.0', 'sm_87')
    larger = FakeTensorRT(cuda, SMALL_FRAMES + 1)
    with pytest.raises(EngineError, match='encoder engine takes 1 to 4 frames, not 1 to 3'):
        TensorRTEngine(device, larger, manifest, key, graph_files())
    files = dict(graph_files())
    swapped = [('encoder', files['depth'])]
    with pytest.raises(EngineError, match=r'has tensors depth, .*; the manifest says images'):
        TensorRTEngine(device, FakeTensorRT(cuda, SMALL_FRAMES), manifest, key, swapped)
    foreign = [('encoder', b'ftrt of another version')]
    with pytest.raises(EngineError, match='cannot be loaded: Magic tag does not match'):
        TensorRTEngine(device, FakeTensorRT(cuda, SMALL_FRAMES), manifest, key, foreign)


def test_tensorrt_rtx_compiles_for_a_shape_before_it_is_recorded() -> None:
    made: list[SimpleNamespace] = []

    class Engine:
        def create_runtime_config(self) -> SimpleNamespace:
            made.append(SimpleNamespace())
            return made[-1]

        def create_execution_context(self, config: object = None) -> object:
            return config

    strategies = SimpleNamespace(EAGER='eager', LAZY='lazy')
    library = SimpleNamespace(DynamicShapesKernelSpecializationStrategy=strategies)
    context = make_context(library, Engine())
    assert context.dynamic_shapes_kernel_specialization_strategy == 'eager'
    assert make_context(SimpleNamespace(), Engine()) is None


def test_tensorrt_rtx_has_what_is_called() -> None:
    """Its engines cannot be loaded without a GPU; that its names are those is known here."""
    rtx = pytest.importorskip('tensorrt_rtx', reason='TensorRT-RTX has no wheel for this machine')
    assert rtx.DynamicShapesKernelSpecializationStrategy.EAGER is not None
    for owner, names in (
        (rtx.Runtime, ['deserialize_cuda_engine']),
        (rtx.ICudaEngine, [n for n in vars(FakeEngine) if n.startswith(('get', 'create'))]),
        (rtx.ICudaEngine, ['num_io_tensors', 'create_runtime_config']),
        (rtx.IRuntimeConfig, ['dynamic_shapes_kernel_specialization_strategy']),
        (rtx.IExecutionContext, [n for n in vars(FakeContext) if not n.startswith('_')]),
        (rtx.IExecutionContext, ['is_stream_capturable']),
        (rtx.TensorIOMode, ['INPUT', 'OUTPUT']),
        (rtx.DataType, ['FLOAT']),
        (rtx.ILogger, ['ERROR', 'INTERNAL_ERROR']),
    ):
        assert [name for name in names if not hasattr(owner, name)] == []


# --- opening a bundle


@pytest.fixture
def bundle(
    tmp_path: Path, cuda: FakeCuda, library: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Return a bundle with "engines" for the stand-in, which takes the places of the libraries."""
    monkeypatch.setitem(sys.modules, 'tensorrt', library)
    monkeypatch.setitem(sys.modules, RUNTIME_MODULE, cuda)
    bundle = shutil.copytree(small_bundle(), tmp_path / 'small')
    put_engines(bundle, key_for(read_manifest(bundle), 'tensorrt', '10.7.0', 'sm_87'))
    return bundle


def put_engines(bundle: Path, key: EngineKey, built_at: str = '') -> None:
    manifest = read_manifest(bundle)
    folder = bundle / BUILT_FOLDER / key.name
    folder.mkdir(parents=True)
    graphs = {}
    for name, content in graph_files():
        (folder / engine_file(name)).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        graphs[name] = BuiltGraph(digest, manifest.graphs[name].sha256, 0.1)
    when = built_at or utc_now()
    write_sidecar(folder, Sidecar(key, manifest_digest(manifest), graphs, when, None))


def test_a_bundle_is_opened_and_proves_itself(bundle: Path, cuda: FakeCuda) -> None:
    engine = open_bundle(bundle, 'tensorrt')
    assert isinstance(engine, TensorRTEngine)
    machine = this_machine()
    assert engine.key.name == f'tensorrt-10.7.0-sm_87-{machine}-fp32-float16-pattern-s3-35x28'
    assert cuda.waits >= 2 * 3  # golden windows, three graphs


def test_the_newest_engines_are_opened(bundle: Path) -> None:
    key = key_for(read_manifest(bundle), 'tensorrt', '10.7.0', 'sm_87', 'bfloat16')
    put_engines(bundle, key, '2001-01-01T00:00:00Z')
    engine: Any = open_bundle(bundle, 'tensorrt')
    assert engine.key.product_type == 'float16'
    shutil.rmtree(bundle / BUILT_FOLDER / key.name)
    put_engines(bundle, key, '2101-01-01T00:00:00Z')
    engine = open_bundle(bundle, 'tensorrt')
    assert engine.key.product_type == 'bfloat16'


def test_engines_of_another_network_fail_the_self_check(
    bundle: Path, library: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sound file of a sound bundle, but a runtime that computes other numbers."""
    run = library.Runtime

    def wrong(logger: Any) -> Any:
        runtime = run(logger)
        load = runtime.deserialize_cuda_engine

        def deserialize(content: bytes) -> Any:
            engine = load(content)
            session = engine.session

            class Session:
                get_outputs = session.get_outputs

                def run(self, names: None, feeds: Any) -> list[np.ndarray]:
                    return [1.02 * array for array in session.run(names, feeds)]

            engine.session = Session()
            return engine

        runtime.deserialize_cuda_engine = deserialize
        return runtime

    monkeypatch.setattr(library, 'Runtime', wrong)
    with pytest.raises(EngineError, match=r'self-check of tensorrt 10\.7\.0 in float16: encoder'):
        open_bundle(bundle, 'tensorrt')
    open_bundle(bundle, 'tensorrt', self_check=False)


def test_engines_for_another_gpu_are_not_loaded(bundle: Path, cuda: FakeCuda) -> None:
    cuda.target = (8, 6)
    with pytest.raises(EngineError) as caught:
        open_bundle(bundle, 'tensorrt')
    line = str(caught.value)
    assert 'no engines for this machine, tensorrt-10.7.0-sm_86-' in line
    assert 'there are engines for tensorrt-10.7.0-sm_87-' in line
    assert f'qvggt build-engine {bundle} --engine tensorrt' in line and '\n' not in line


def test_a_damaged_engine_is_not_loaded(bundle: Path, library: FakeTensorRT) -> None:
    (path,) = bundle.glob('built/*/window.engine')
    path.write_bytes(str(small_bundle() / 'depth.onnx').encode())
    with pytest.raises(EngineError, match=r'window\.engine: damaged'):
        open_bundle(bundle, 'tensorrt')
    assert len(library.loaded) == 1  # the encoder's, which is sound


def test_what_is_missing_is_one_line(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, RUNTIME_MODULE, None)
    with pytest.raises(EngineError, match=r'the GPU cannot be reached .*cuda-python'):
        open_bundle(bundle, 'tensorrt')
    monkeypatch.setitem(sys.modules, 'tensorrt', None)
    with pytest.raises(EngineError, match=r"engine 'tensorrt' is not installed here .*JetPack"):
        open_bundle(bundle, 'tensorrt')


def test_the_runtime_has_what_is_called(cuda: FakeCuda, engine: TensorRTEngine) -> None:
    """The stand-in's functions are those of the bindings; without a GPU they say so."""
    runtime = pytest.importorskip(RUNTIME_MODULE, reason='cuda-python is not installed')
    for _ in range(2):
        engine.depth(engine.window(engine.encode(images(1))), [0])
    for name in {*cuda.calls, 'cudaFree', 'cudaFreeHost', 'cudaGraphExecDestroy'}:
        assert callable(getattr(runtime, name))
    for name in ('cudaStreamNonBlocking', 'cudaMemcpyKind', 'cudaStreamCaptureMode'):
        assert hasattr(runtime, name)
    for group in ('cudaMemcpyKind', 'cudaDeviceAttr', 'cudaStreamCaptureMode'):
        for member in vars(getattr(FakeCuda, group)):
            assert hasattr(getattr(runtime, group), member)
    if why_no_gpu():
        with pytest.raises(EngineError, match=r'no usable GPU here \(cudaError'):
            compute_capability(runtime)
        with pytest.raises(EngineError, match=r'no usable GPU here'):
            CudaDevice(runtime)


# --- on a real GPU


def why_no_gpu() -> str:
    try:
        compute_capability()
    except EngineError as error:
        return str(error)
    return ''


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize('name', ['tensorrt', 'tensorrt_rtx'])
def test_real_engines_pass_their_self_check(tmp_path: Path, name: str) -> None:
    from qvggt_ros.cli import main

    if why_no_gpu():
        pytest.skip(why_no_gpu())
    pytest.importorskip(name, reason=f'{name} is not installed here')
    demo = Path(__file__).parent.parent / 'engines' / 'demo'
    bundle = shutil.copytree(demo, tmp_path / 'demo')
    assert main(['build-engine', str(bundle), '--engine', name]) == 0
    engine = open_bundle(bundle, name)
    golden = read_golden(bundle, engine.manifest)
    given = to_network_input(golden['images'][0])
    for count in (1, len(given), len(given), len(given)):
        window = engine.window(engine.encode(given[:count]))
        depth, conf = engine.depth(window, range(count))
        assert np.isfinite(depth).all() and (conf >= 1).all()
    np.testing.assert_allclose(depth, golden['depth'][0], atol=0.2 * golden['depth'].max())
