# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Engines that were built for one kind of machine: their names, their sidecars, their checks.

`built/<key>/` in a bundle's folder holds one engine per graph and `engines.json`, which says what
they were made from and for. Everything in it is compared before a byte reaches a runtime: engines
are machine code, and a runtime given another machine's, or half of one, may crash or be taken
over.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from qvggt_ros.engine.manifest import GRAPHS, Manifest, content_digest
from qvggt_ros.errors import EngineError
from qvggt_ros.files import whole_file

BUILT_FOLDER = 'built'
SIDECAR_FILE = 'engines.json'
SIDECAR_VERSION = 1
ENGINE_SUFFIX = '.engine'
_TEXT = re.compile(r'[A-Za-z0-9._+-]{1,80}')
_DIGEST = re.compile(r'[0-9a-f]{64}')


@dataclass(frozen=True)
class EngineKey:
    """What engines are made for; another machine, version or size needs other ones.

    Attributes:
        engine: `tensorrt` or `tensorrt_rtx`.
        engine_version: of that library.
        target: the GPU's compute capability, `sm_86`.
        machine: the processor, `x86_64` or `aarch64`.
        precision: of the bundle.
        product_type: of products and attention, `float16` or `bfloat16`.
        attention: how it is spelled, `operator` or `pattern`.
        frames: the largest window.
        width, height: of the images, pixels.

    """

    engine: str
    engine_version: str
    target: str
    machine: str
    precision: str
    product_type: str
    attention: str
    frames: int
    width: int
    height: int

    @property
    def name(self) -> str:
        """Return the folder's name."""
        return (
            f'{self.engine}-{self.engine_version}-{self.target}-{self.machine}-{self.precision}-'
            f'{self.product_type}-{self.attention}-s{self.frames}-{self.width}x{self.height}'
        )


@dataclass(frozen=True)
class BuiltGraph:
    """One engine file: its digest, and that of the graph it was built from."""

    sha256: str
    source_sha256: str
    seconds: float


@dataclass(frozen=True)
class Sidecar:
    """What `engines.json` holds.

    Attributes:
        key: what the engines are for.
        bundle_sha256: digest of the bundle's manifest.
        graphs: by name, exactly `encoder`, `window`, `depth`.

    """

    key: EngineKey
    bundle_sha256: str
    graphs: dict[str, BuiltGraph]


def this_machine() -> str:
    """Return the processor's kind, as in a key."""
    return platform.machine()


def manifest_digest(manifest: Manifest) -> str:
    """Return the digest that ties engines to their bundle."""
    return content_digest(asdict(manifest))


def engine_file(graph: str) -> str:
    """Return the name of a graph's engine file."""
    return f'{graph}{ENGINE_SUFFIX}'


def write_sidecar(folder: Path, sidecar: Sidecar) -> None:
    """Write `engines.json`, with a digest of its own content."""
    content = {'version': SIDECAR_VERSION, **asdict(sidecar)}
    text = json.dumps({**content, 'sha256': content_digest(content)}, indent=1)
    with whole_file(folder / SIDECAR_FILE) as file:
        file.write_text(text + '\n', encoding='utf-8')


def read_sidecar(folder: Path) -> Sidecar:
    """Read and check `engines.json`; EngineError in one line where it is not what it should be."""
    path = folder / SIDECAR_FILE
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise EngineError(f'{path}: cannot be read: {error.strerror}; {_again(folder)}') from error
    except (ValueError, RecursionError) as error:
        raise EngineError(f'{path}: not JSON; {_again(folder)}') from error
    if not isinstance(content, dict) or content.get('version') != SIDECAR_VERSION:
        raise EngineError(f'{path}: of another version of qvggt_ros; {_again(folder)}')
    digest = content.pop('sha256', None)
    if digest != content_digest(content):
        raise EngineError(f'{path}: was changed after the engines were built; {_again(folder)}')
    try:
        return _sidecar(content)
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f'{path}: {error} breaks its rules; {_again(folder)}') from error


def read_built(bundle: Path, manifest: Manifest, key: EngineKey) -> dict[str, bytes]:
    """Return the verified engines of a bundle for a machine, by graph.

    What is returned are the very bytes whose digests were compared.

    Raises:
        EngineError: there are none for this machine, or they are damaged, of another bundle or of
            another version; says what there is, what this machine is, and what to run.

    """
    folder = Path(bundle) / BUILT_FOLDER / key.name
    if not folder.is_dir():
        raise EngineError(_none_for(bundle, key))
    if not folder.resolve().is_relative_to(Path(bundle).resolve()):
        raise EngineError(f'{folder}: lies outside the bundle')
    sidecar = read_sidecar(folder)
    if sidecar.key != key:
        raise EngineError(
            f'{folder}: holds engines for {sidecar.key.name}, not {key.name}; {_again(folder)}'
        )
    if sidecar.bundle_sha256 != manifest_digest(manifest):
        raise EngineError(f'{folder}: engines of another bundle; {_again(folder)}')
    return {name: _verified(folder, name, manifest, sidecar) for name in GRAPHS}


def _verified(folder: Path, name: str, manifest: Manifest, sidecar: Sidecar) -> bytes:
    path, built = folder / engine_file(name), sidecar.graphs[name]
    if built.source_sha256 != manifest.graphs[name].sha256:
        raise EngineError(f'{path}: built from another {name} graph; {_again(folder)}')
    if path.is_symlink():
        raise EngineError(f'{path}: is a link; {_again(folder)}')
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EngineError(f'{path}: cannot be read: {error.strerror}; {_again(folder)}') from error
    if hashlib.sha256(content).hexdigest() != built.sha256:
        raise EngineError(f'{path}: damaged, or not what was built; {_again(folder)}')
    return content


def _none_for(bundle: Path, key: EngineKey) -> str:
    built = Path(bundle) / BUILT_FOLDER
    there = sorted(item.name for item in built.iterdir()) if built.is_dir() else []
    listed = f'; there are engines for {", ".join(there)}' if there else ''
    return (
        f'{bundle}: no engines for this machine, {key.name}{listed}; build them here with: qvggt '
        f'build-engine {bundle} --engine {key.engine}'
    )


def _again(folder: Path) -> str:
    """Return the advice that every refusal ends with."""
    bundle, engine = folder.parent.parent, folder.name.split('-')[0]
    return f'build again with: qvggt build-engine {bundle} --engine {engine}'


def _sidecar(content: Mapping[str, Any]) -> Sidecar:
    _exact(content, {'version', *_names(Sidecar)})
    key = content['key']
    _exact(key, _names(EngineKey))
    for name, value in key.items():
        if name in ('frames', 'width', 'height'):
            if type(value) is not int or value < 1:
                raise ValueError(f'key.{name} {value!r:.80}')
        elif type(value) is not str or not _TEXT.fullmatch(value):
            raise ValueError(f'key.{name} {value!r:.80}')
    graphs = content['graphs']
    _exact(graphs, set(GRAPHS))
    return Sidecar(
        key=EngineKey(**key),
        bundle_sha256=_digest(content['bundle_sha256'], 'bundle_sha256'),
        graphs={name: _built_graph(name, graphs[name]) for name in GRAPHS},
    )


def _built_graph(name: str, content: Mapping[str, Any]) -> BuiltGraph:
    _exact(content, _names(BuiltGraph))
    seconds = content['seconds']
    if type(seconds) not in (int, float) or not 0 <= seconds < float('inf'):
        raise ValueError(f'graphs.{name}.seconds {seconds!r:.80}')
    return BuiltGraph(
        sha256=_digest(content['sha256'], f'graphs.{name}.sha256'),
        source_sha256=_digest(content['source_sha256'], f'graphs.{name}.source_sha256'),
        seconds=float(seconds),
    )


def _exact(content: object, names: set[str]) -> None:
    if not isinstance(content, dict) or set(content) != names:
        raise ValueError(f'{str(content)[:80]!r}: must have exactly {", ".join(sorted(names))}')


def _names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def _digest(value: object, where: str) -> str:
    if type(value) is not str or not _DIGEST.fullmatch(value):
        raise ValueError(f'{where} {value!r:.80}')
    return value
