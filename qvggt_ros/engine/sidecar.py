# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is written beside built engines: what they were made from, for what, and how they did."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from qvggt_ros.engine.manifest import GOLDEN_FIGURES, GRAPHS, content_digest, write_signed
from qvggt_ros.errors import EngineError

SIDECAR_FILE = 'engines.json'
SIDECAR_VERSION = 2
MAX_SIDECAR_BYTES = 1 << 20
TIME_FORMAT = '%Y-%m-%dT%H:%M:%SZ'
_TEXT = re.compile(r'[A-Za-z0-9._+-]{1,80}')
_DIGEST = re.compile(r'[0-9a-f]{64}')
_TIME = re.compile(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ')


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
        built_at: date and time, UTC.
        self_check: the golden figures of the engines on the machine that built them; None: built
            for a GPU that was not there, and never run.

    """

    key: EngineKey
    bundle_sha256: str
    graphs: dict[str, BuiltGraph]
    built_at: str
    self_check: dict[str, float] | None


def write_sidecar(folder: Path, sidecar: Sidecar) -> None:
    """Write `engines.json`, with a digest of its own content."""
    content = {'version': SIDECAR_VERSION, **asdict(sidecar)}
    write_signed(folder / SIDECAR_FILE, content, 'sha256')


def read_sidecar(folder: Path) -> Sidecar:
    """Read and check `engines.json`; EngineError in one line where it is not what it should be."""
    path = folder / SIDECAR_FILE
    try:
        if path.is_symlink() or path.stat().st_size > MAX_SIDECAR_BYTES:
            raise EngineError(f'{path}: is a link, or too large; {again(folder)}')
        content = json.loads(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise EngineError(f'{path}: cannot be read: {error.strerror}; {again(folder)}') from error
    except (ValueError, RecursionError) as error:
        raise EngineError(f'{path}: not JSON; {again(folder)}') from error
    if not isinstance(content, dict) or content.get('version') != SIDECAR_VERSION:
        raise EngineError(f'{path}: of another version of qvggt_ros; {again(folder)}')
    digest = content.pop('sha256', None)
    if digest != content_digest(content):
        raise EngineError(f'{path}: was changed after the engines were built; {again(folder)}')
    try:
        return _sidecar(content)
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f'{path}: {error} breaks its rules; {again(folder)}') from error


def again(folder: Path) -> str:
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
        built_at=_time(content['built_at']),
        self_check=_figures(content['self_check']),
    )


def _built_graph(name: str, content: Mapping[str, Any]) -> BuiltGraph:
    _exact(content, _names(BuiltGraph))
    return BuiltGraph(
        sha256=_digest(content['sha256'], f'graphs.{name}.sha256'),
        source_sha256=_digest(content['source_sha256'], f'graphs.{name}.source_sha256'),
        seconds=_number(content['seconds'], f'graphs.{name}.seconds'),
    )


def _figures(content: object) -> dict[str, float] | None:
    if content is None:
        return None
    _exact(content, set(GOLDEN_FIGURES))
    assert isinstance(content, dict)
    return {name: _number(content[name], f'self_check.{name}') for name in GOLDEN_FIGURES}


def _number(value: object, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f'{where} {value!r:.80}')
    if not 0 <= value < float('inf'):
        raise ValueError(f'{where} {value!r:.80}')
    return float(value)


def _time(value: object) -> str:
    if type(value) is not str or not _TIME.fullmatch(value):
        raise ValueError(f'built_at {value!r:.80}')
    return value


def _exact(content: object, names: set[str]) -> None:
    if not isinstance(content, dict) or set(content) != names:
        raise ValueError(f'{str(content)[:80]!r}: must have exactly {", ".join(sorted(names))}')


def _names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def _digest(value: object, where: str) -> str:
    if type(value) is not str or not _DIGEST.fullmatch(value):
        raise ValueError(f'{where} {value!r:.80}')
    return value
