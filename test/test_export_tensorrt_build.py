# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Real engines, built by TensorRT-RTX for a GPU that is not here; and what cannot be built."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import pytest
from small_networks import small_bundle

from qvggt_ros.cli import main
from qvggt_ros.engine.built import BUILT_FOLDER, engine_file, read_built
from qvggt_ros.engine.manifest import GRAPHS, read_manifest
from qvggt_ros.errors import EngineError, UsageError
from qvggt_ros.export import tensorrt_build
from qvggt_ros.export.tensorrt_build import EngineBuild, build_engines
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
    key = tensorrt_build._key(tensorrt_build.load_library('tensorrt_rtx'), manifest, RTX)
    engines = read_built(bundle, manifest, key)
    assert all(len(engine) > 100_000 for engine in engines.values())
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
    words += ['--method', 'rtn', '--candidates', '8', '--samples', '4', '--fast']
    words += ['--engine', 'tensorrt_rtx', '--target', 'sm_89', '--type', 'bfloat16']
    assert main([*words, '--out', str(tmp_path / 'int4')]) == 0
    assert 'sm_89-x86_64-w4a16-bfloat16-operator-s4-112x84' in capsys.readouterr().out
    (folder,) = (tmp_path / 'int4' / BUILT_FOLDER).iterdir()
    sizes = {name: (folder / engine_file(name)).stat().st_size for name in GRAPHS}
    assert min(sizes.values()) > 100_000


@pytest.mark.slow
def test_attention_that_does_not_fuse_is_not_built(library: object, tmp_path: Path) -> None:
    """In float32 there is no fused kernel: that half types are built shows that theirs is used."""
    rewrite_graph(DEMO / 'encoder.onnx', tmp_path / 'encoder.onnx', GraphTypes('float32'))
    key = tensorrt_build._key(library, read_manifest(DEMO), RTX)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=r'cannot be built: .*not supported by a dedicated'):
        tensorrt_build._compile(
            library,
            tmp_path / 'encoder.onnx',
            key,
            RTX,
            'TensorRT-RTX: encoder graph',
            lambda *step: True,
            'encoder',
        )


@pytest.mark.slow
@pytest.mark.usefixtures('library')
@pytest.mark.parametrize('interrupted', [False, True])
def test_an_ended_build_leaves_nothing(bundle: Path, interrupted: bool) -> None:
    def stop(graph: str, phase: str, done: int, total: int) -> bool:
        if phase == 'rewriting the graph':
            return True
        if interrupted:
            raise KeyboardInterrupt
        return False

    with pytest.raises(EngineError, match='the build was ended'):
        build_engines(bundle, read_manifest(bundle), RTX, stop)
    assert not list((bundle / BUILT_FOLDER).iterdir())


@pytest.mark.usefixtures('library')
@pytest.mark.parametrize(
    ('build', 'words'),
    [
        (EngineBuild('tensorrt_rtx', 'sm_12'), 'knows .*sm_86'),
        (EngineBuild('tensorrt_rtx', 'ampere'), 'knows .*sm_86'),
        (EngineBuild('tensorrt_rtx', 'sm_86', 'int8'), '--type int8'),
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
    monkeypatch.setattr(tensorrt_build.importlib, 'import_module', absent)
    assert main(['build-engine', str(bundle), '--engine', 'tensorrt']) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and 'it comes with JetPack' in lines[0]
    assert main(['build', '--engine', 'tensorrt_rtx', '--out', 'nowhere']) == 2
    assert 'pip install tensorrt-rtx-cu13' in capsys.readouterr().err


def test_a_version_without_the_operator_gets_the_pattern(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    for version, attention in (
        ('10.3.0.30', 'pattern'),
        ('10.14.1', 'operator'),
        ('11', 'operator'),
    ):

        class Library:
            __version__ = version
            ComputeCapability = type('C', (), {'SM86': 0})

        key = tensorrt_build._key(Library, manifest, EngineBuild('tensorrt_rtx', 'sm_86'))  # type: ignore[arg-type]
        assert key.attention == 'operator'
        with pytest.raises(UsageError, match='builds for the GPU of this machine only'):
            tensorrt_build._key(Library, manifest, EngineBuild('tensorrt', 'sm_86'))  # type: ignore[arg-type]
        assert tensorrt_build.fused_attention('tensorrt', version) == attention
