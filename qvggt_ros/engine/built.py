# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Engines that were built for one kind of machine, and what is compared before they are loaded.

`built/<key>/` in a bundle's folder holds one engine per graph and `engines.json`, which says what
they were made from and for. Everything in it is compared before a byte reaches a runtime: engines
are machine code, and a runtime given another machine's, or half of one, may crash or be taken
over.
"""

from __future__ import annotations

import datetime
import hashlib
import platform
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

from qvggt_ros.engine.half_types import HALF_TYPES
from qvggt_ros.engine.manifest import GRAPHS, Manifest, content_digest
from qvggt_ros.engine.sidecar import TIME_FORMAT, EngineKey, Sidecar, again, read_sidecar
from qvggt_ros.errors import EngineError

BUILT_FOLDER = 'built'
ENGINE_SUFFIX = '.engine'
# operator: the standard one, which compiles only where a fused kernel exists;
# pattern: MatMul, Softmax, MatMul, for TensorRT older than the operator, which fuses it by itself.
ATTENTIONS = ('operator', 'pattern')
# The first TensorRT whose parser knows the standard attention operator (opset 23).
ATTENTION_SINCE = (10, 14)


def this_machine() -> str:
    """Return the processor's kind, as in a key."""
    return platform.machine()


def fused_attention(engine: str, version: str) -> str:
    """Return the spelling of attention that a version of a library fuses."""
    numbers = tuple(int(part) for part in re.findall(r'\d+', version)[:2])
    knows = engine == 'tensorrt_rtx' or numbers >= ATTENTION_SINCE
    return 'operator' if knows else 'pattern'


def key_for(
    manifest: Manifest,
    engine: str,
    version: str,
    target: str,
    half_type: str = HALF_TYPES[0],
    attention: str | None = None,
) -> EngineKey:
    """Return the key of a bundle's engines for a GPU beside this machine's processor."""
    return EngineKey(
        engine=engine,
        engine_version=version,
        target=target,
        machine=this_machine(),
        precision=manifest.precision,
        product_type=half_type,
        attention=attention or fused_attention(engine, version),
        frames=manifest.window_frames,
        width=manifest.image_width,
        height=manifest.image_height,
    )


def manifest_digest(manifest: Manifest) -> str:
    """Return the digest that ties engines to their bundle."""
    return content_digest(asdict(manifest))


def engine_file(graph: str) -> str:
    """Return the name of a graph's engine file."""
    return f'{graph}{ENGINE_SUFFIX}'


def utc_now() -> str:
    """Return the time as a sidecar has it; such texts sort by time."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return now.strftime(TIME_FORMAT)


def find_key(bundle: Path, wanted: EngineKey) -> EngineKey:
    """Return the key of a bundle's newest engines for a machine, whatever half type they have.

    Args:
        bundle: its folder.
        wanted: the machine's key; its type and attention do not matter.

    Raises:
        EngineError: there are none for this machine; says what there is, and what to run.

    """
    keys = [
        replace(wanted, product_type=half, attention=attention)
        for half, attention in product(HALF_TYPES, ATTENTIONS)
    ]
    built = Path(bundle) / BUILT_FOLDER
    there = [key for key in keys if (built / key.name).is_dir()]
    if not there:
        raise EngineError(_none_for(bundle, wanted))
    if len(there) == 1:
        return there[0]
    return max(there, key=lambda key: read_sidecar(built / key.name).built_at)


def read_built(
    bundle: Path, manifest: Manifest, key: EngineKey
) -> tuple[Sidecar, Iterator[tuple[str, bytes]]]:
    """Return what is written about a bundle's engines, and the engines, one after another.

    An engine's digest is compared when it is asked for, and what is given are the very bytes that
    were compared.

    Raises:
        EngineError: there are none for this machine, or they are damaged, of another bundle or of
            another version; says what there is, what this machine is, and what to run.

    """
    folder = Path(bundle) / BUILT_FOLDER / key.name
    if not folder.is_dir():
        raise EngineError(_none_for(bundle, key))
    if folder.resolve() != Path(bundle).resolve() / BUILT_FOLDER / key.name:
        raise EngineError(f'{folder}: lies outside the bundle, or is a link')
    sidecar = read_sidecar(folder)
    if sidecar.key != key:
        raise EngineError(
            f'{folder}: holds engines for {sidecar.key.name}, not {key.name}; {again(folder)}'
        )
    if sidecar.bundle_sha256 != manifest_digest(manifest):
        raise EngineError(f'{folder}: engines of another bundle; {again(folder)}')
    return sidecar, ((name, _verified(folder, name, manifest, sidecar)) for name in GRAPHS)


def _verified(folder: Path, name: str, manifest: Manifest, sidecar: Sidecar) -> bytes:
    path, built = folder / engine_file(name), sidecar.graphs[name]
    if built.source_sha256 != manifest.graphs[name].sha256:
        raise EngineError(f'{path}: built from another {name} graph; {again(folder)}')
    if path.is_symlink():
        raise EngineError(f'{path}: is a link; {again(folder)}')
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EngineError(f'{path}: cannot be read: {error.strerror}; {again(folder)}') from error
    if hashlib.sha256(content).hexdigest() != built.sha256:
        raise EngineError(f'{path}: damaged, or not what was built; {again(folder)}')
    return content


def _none_for(bundle: Path, key: EngineKey) -> str:
    built = Path(bundle) / BUILT_FOLDER
    there = sorted(item.name for item in built.iterdir()) if built.is_dir() else []
    there = [name for name in there if not name.startswith('.')]
    listed = f'; there are engines for {", ".join(there)}' if there else ''
    return (
        f'{bundle}: no engines for this machine, {key.name}{listed}; build them here with: qvggt '
        f'build-engine {bundle} --engine {key.engine}'
    )
