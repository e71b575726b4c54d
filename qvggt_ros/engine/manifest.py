# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A bundle's manifest: what a bundle holds, and the digest of every file in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qvggt_ros.engine.manifest_reader import manifest_of, read_json
from qvggt_ros.engine.manifest_types import (
    GOLDEN_FIGURES,
    GOLDEN_OUTPUTS,
    GRAPH_TENSORS,
    GRAPHS,
    MEAN_SUFFIX,
    SCHEMA_VERSION,
    TAPS,
    CalibrationInfo,
    GoldenInfo,
    GraphInfo,
    LayerInfo,
    Manifest,
    TensorInfo,
)
from qvggt_ros.errors import BundleError
from qvggt_ros.files import whole_file

__all__ = [
    'GOLDEN_FIGURES',
    'GOLDEN_OUTPUTS',
    'GRAPHS',
    'GRAPH_TENSORS',
    'MANIFEST_FILE',
    'MEAN_SUFFIX',
    'SCHEMA_VERSION',
    'TAPS',
    'CalibrationInfo',
    'GoldenInfo',
    'GraphInfo',
    'LayerInfo',
    'Manifest',
    'TensorInfo',
    'bundle_path',
    'content_digest',
    'file_digest',
    'read_manifest',
    'verify_digests',
    'write_manifest',
    'write_signed',
]

MANIFEST_FILE = 'manifest.json'
_HASH_CHUNK_BYTES = 1 << 20


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, with a digest of its own content, so that an edit is noticed."""
    write_signed(folder / MANIFEST_FILE, asdict(manifest), 'manifest_sha256')


def write_signed(path: Path, content: Mapping[str, Any], digest_key: str) -> None:
    """Write JSON content with its own digest under a key; the file appears whole."""
    text = json.dumps({**content, digest_key: content_digest(content)}, indent=1)
    with whole_file(path) as file:
        file.write_text(text + '\n', encoding='utf-8')


def read_manifest(folder: Path, verify_files: bool = True) -> Manifest:
    """Read and check a bundle's manifest and, unless told otherwise, every file's digest.

    Raises:
        BundleError: a file is missing, lies outside the folder, or is not what the manifest
            says; or the manifest itself breaks a rule.

    """
    path = Path(folder) / MANIFEST_FILE
    if not _is_file(path):
        raise BundleError(f'{path}: no such file; {path.parent} is not a bundle')
    content = read_json(bundle_path(Path(folder), MANIFEST_FILE))
    version = content.get('schema_version')
    if type(version) is not int or version != SCHEMA_VERSION:
        raise BundleError(
            f'{path}: schema_version is {version!r:.80}, this version of qvggt_ros reads '
            f'{SCHEMA_VERSION}; build the bundle again'
        )
    digest = content.pop('manifest_sha256', None)
    manifest = manifest_of(content, str(path))
    if digest != content_digest(content):
        raise BundleError(f'{path}: was changed after the bundle was built; build it again')
    if verify_files:
        verify_digests(Path(folder), manifest)
    return manifest


def verify_digests(folder: Path, manifest: Manifest) -> None:
    """Check that every file of the bundle is there, inside the folder, and unchanged."""
    listed: list[tuple[str | None, str | None]] = [
        (graph.file, graph.sha256) for graph in manifest.graphs.values()
    ]
    listed += [(graph.data_file, graph.data_sha256) for graph in manifest.graphs.values()]
    listed.append((manifest.golden.file, manifest.golden.sha256))
    for file, expected in listed:
        if file is not None and file_digest(bundle_path(folder, file)) != expected:
            raise BundleError(
                f'{folder / file}: its SHA-256 is not the one in {MANIFEST_FILE}; '
                'the file is damaged or from another bundle'
            )


def bundle_path(folder: Path, file: str) -> Path:
    """Return the path of a bundle's file; BundleError if it is missing or lies outside.

    A link counts as outside wherever it points: what a runtime reads beside a linked graph is
    not what was checked beside the link.
    """
    path = folder / file
    try:
        inside = path.resolve() == folder.resolve() / file
    except (OSError, RuntimeError):  # a link to itself is either, by the version of Python
        inside = False
    if not inside:
        raise BundleError(
            f'{folder / MANIFEST_FILE}: file {file!r} lies outside the bundle, or is a link'
        )
    if not _is_file(path):
        raise BundleError(f'{path}: missing, though {MANIFEST_FILE} lists it')
    return path


def file_digest(path: Path) -> str:
    """Return a file's SHA-256 in hex."""
    digest = hashlib.sha256()
    try:
        with path.open('rb') as file:
            while chunk := file.read(_HASH_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise BundleError(f'{path}: cannot be read: {error.strerror}') from error
    return digest.hexdigest()


def content_digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON content, whatever its layout on disk."""
    canonical = json.dumps(content, sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _is_file(path: Path) -> bool:
    """Tell whether a plain file is there; a folder that may not be entered holds none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
